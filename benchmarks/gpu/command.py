"""The command line of `benchmarks/gpu.py`."""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gpu import cells, correct, drift, head, layer, rates, reference, sampling, update, vllm
from gpu.machine import Machine
from gpu.table import HEADER, Table
from mirrorpo.distributed.device import named_device, prepare
from mirrorpo.model.language_model import FAILURES

BROKEN = (*FAILURES, HydraException, OmegaConfBaseException, ImportError, OSError)
Section = Callable[[Table, Machine], None]
SECTIONS: Mapping[str, Sequence[Section]] = {
    "rates": (rates.run,),
    "correct": (*correct.PARTS, *cells.PARTS),
    "head": (head.run,),
    "layer": (layer.run,),
    "drift": (drift.run,),
    "sampling": (sampling.run,),
    "update": (update.run,),
    "vllm": (vllm.run,),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    args = _arguments(arguments)
    # Read where they say something; torch repeats them at every call.
    warnings.filterwarnings("ignore")
    prepare(threads=args.threads, deterministic=True)
    machine = Machine(device=named_device(args.device))
    table = Table(speeds_count=machine.on_card, strict=args.strict)
    about = rates.environment(machine)
    for name, value in about.items():
        print(f"{name:14} {value}")
    print(f"\n{HEADER}")
    start = time.perf_counter()
    end = start + 60 * args.minutes
    for name in args.only or SECTIONS:
        sections = SECTIONS[name] if name in SECTIONS else (partial(_reference, args),)
        for section in sections:
            _measured(section, name, table, machine, end)
    seconds = time.perf_counter() - start
    table.close()
    print(f"{seconds:.0f} s")
    if args.out:
        table.write(args.out, {**about, "seconds": seconds, "only": args.only or list(SECTIONS)})
    return 1 if table.failed else 0


def _reference(args: argparse.Namespace, table: Table, machine: Machine) -> None:
    reference.run(table, machine, args.model, args.data, args.override)


def _measured(section: Section, name: str, table: Table, machine: Machine, end: float) -> None:
    if time.perf_counter() > end:
        table.skip(name, "the section", "the time of --minutes is over")
        return
    try:
        section(table, machine)
    # One section that breaks off must not take the others' lines with it.
    except BROKEN as error:
        table.error(name, error)
    finally:
        machine.free()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Is this device right, and how fast is it?")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (auto: CUDA where there is one)")
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS, "reference"], help="these sections (all)")
    parser.add_argument("--out", type=Path, help="write the table as JSON too")
    parser.add_argument("--strict", action="store_true", help="missed bounds on speed fail the command too")
    parser.add_argument("--minutes", type=float, default=8.0, help="no section starts later (8)")
    parser.add_argument("--threads", type=int, default=2, help="of torch on the CPU (2)")
    parser.add_argument("--model", help="of --only reference: a folder with a model")
    parser.add_argument("--data", help="of --only reference: a folder with gsm8k/*.jsonl")
    parser.add_argument(
        "--override",
        nargs="+",
        default=("steps=50", "eval_questions=200"),
        help="settings of the reference cell (steps=50 eval_questions=200)",
    )
    args = parser.parse_args(arguments)
    if "reference" in (args.only or ()) and not (args.model and args.data):
        parser.error("--only reference: give --model FOLDER and --data FOLDER; nothing is fetched")
    return args
