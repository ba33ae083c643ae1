"""Deterministic kernels: what torch is set to, and what of it holds on this device, in plain words."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.utils.deterministic

# Values under which cuBLAS adds up in one order; torch names them in its error.
WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


def set_deterministic(requested: bool) -> None:
    """Deterministic algorithms where there are any; an operation that has none is named, and the run goes on.

    `strict_where_possible` does more, once there is a model to try it on.
    """
    if requested:
        # cuBLAS reads it when its first product is taken.
        os.environ.setdefault(WORKSPACE, WORKSPACES[0])
    # Filling what is about to be written costs a kernel for every empty tensor, and changes no number.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.use_deterministic_algorithms(requested, warn_only=True)


def strict_where_possible(
    requested: bool, device: torch.device, trial: Callable[[], object]
) -> Mapping[str, object]:
    """Have torch refuse what is not deterministic, if the model gets by on what is left.

    On CUDA only a strict torch takes the deterministic backward passes of flash and memory-efficient
    attention; cuDNN's has none and is switched off.

    Args:
        requested: the setting.
        device: where the model runs.
        trial: a forward and a backward pass of the model.

    Returns:
        For the manifest: what was requested, and what holds.
    """
    record: dict[str, object] = {"requested": requested}
    if not requested:
        return record | {"holds": "no: not requested"}
    if device.type != "cuda":
        return record | {"holds": "yes"}
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        trial()
    except RuntimeError as error:
        if not lacks_determinism(error):
            raise
        torch.use_deterministic_algorithms(True, warn_only=True)
        return record | {
            "holds": f"no: {_operation(error)} has no deterministic form, and attention's backward pass then "
            "takes the faster one too"
        }
    return record | {
        "holds": "yes, for torch's kernels, attention's backward pass included; not for vLLM, whose rounding "
        "depends on what is sampled together"
    }


@contextmanager
def naming_the_setting() -> Iterator[None]:
    """An operation that a strict torch refuses in the middle of a run ends it with the setting to change.

    Raises:
        RuntimeError: in place of torch's own, which names a function to call.
    """
    try:
        yield
    except RuntimeError as error:
        if not lacks_determinism(error):
            raise
        raise RuntimeError(
            f"deterministic=true: {_operation(error)} has no deterministic form on this device; set "
            "deterministic=false"
        ) from error


def lacks_determinism(error: Exception) -> bool:
    """Whether a strict torch raised it, since it has no deterministic form of an operation."""
    return "use_deterministic_algorithms(True" in str(error)


def _operation(error: RuntimeError) -> str:
    text = str(error)
    if WORKSPACE in text:
        return f"a matrix product under {WORKSPACE}={os.environ.get(WORKSPACE, '')}"
    return text.split(" does not have")[0].splitlines()[0]
