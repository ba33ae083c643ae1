"""What the machine is, and what it can do at all: copies and products."""

import platform
import subprocess
import sys
from importlib.util import find_spec

import torch
import transformers

from gpu.machine import MIB, Machine
from gpu.table import Table

SECTION = "rates"
# Square products, and bytes that are copied: on a card, on a CPU.
SIDE, CPU_SIDE = 8192, 512
COPIED, CPU_COPIED = 2**30, 2**24
OPTIONAL = ("peft", "accelerate", "vllm", "datasets", "wandb", "pyarrow", "submitit")


def environment(machine: Machine) -> dict[str, object]:
    """Versions, the device and its memory, and which optional packages are here."""
    about: dict[str, object] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": str(machine.device),
        "absent": ", ".join(name for name in OPTIONAL if find_spec(name) is None) or "nothing",
    }
    if machine.on_card:
        properties = torch.cuda.get_device_properties(machine.device)
        about |= {
            "card": properties.name,
            "memory": f"{properties.total_memory / 2**30:.1f} GiB",
            "capability": f"{properties.major}.{properties.minor}",
            "CUDA": torch.version.cuda,
            "cards": torch.cuda.device_count(),
            "attention": ", ".join(_attention()),
        }
        about["driver"] = _driver()
    return about


def _attention() -> list[str]:
    cuda = torch.backends.cuda
    kernels = {
        "flash": cuda.flash_sdp_enabled(),
        "memory-efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return [name for name, enabled in kernels.items() if enabled]


def _driver() -> str:
    # torch knows the CUDA version that the driver can, not the driver's own.
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown (nvidia-smi does not answer)"
    return told.stdout.split()[0]


def products(machine: Machine, dtype: torch.dtype) -> float:
    """TFLOP/s of a square product of random numbers."""
    side = SIDE if machine.on_card else CPU_SIDE
    left, right = (torch.randn(side, side, device=machine.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / machine.seconds(lambda: left @ right, rounds=5, warm=2) / 1e12


def run(table: Table, machine: Machine) -> None:
    """Copies to, from and within the device; products in float32 as the trainer sets them, and bfloat16."""
    count = COPIED if machine.on_card else CPU_COPIED
    host, here = (
        torch.ones(count, dtype=torch.uint8),
        torch.ones(count, dtype=torch.uint8, device=machine.device),
    )
    pinned = host.pin_memory() if machine.on_card else host
    copies = {
        "host to device, pageable": lambda: here.copy_(host),
        "host to device, pinned": lambda: here.copy_(pinned, non_blocking=True),
        "device to host, pageable": lambda: host.copy_(here),
        "within the device, read and written": lambda: here.clone(),
    }
    for name, copy in copies.items():
        counted = 2 * count if name.startswith("within") else count
        rate = counted / machine.seconds(copy) / 1e9
        table.fact(SECTION, name, rate, "GB/s", note=f"{count // MIB} MiB")
    for dtype, name in ((torch.float32, 'float32 product, "highest"'), (torch.bfloat16, "bfloat16 product")):
        peak = machine.peak_rate()
        note = f"data sheet {peak:.0f}" if peak and dtype == torch.bfloat16 else ""
        table.fact(SECTION, name, products(machine, dtype), "TFLOP/s", note=note)
