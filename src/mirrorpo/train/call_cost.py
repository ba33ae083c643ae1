"""What a call of the network costs beside its tokens, in tokens that it could compute instead."""

import statistics
import time
from collections.abc import Callable
from typing import TypedDict

import torch

from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.modes import evaluating
from mirrorpo.model.plain import ordinary_ids
from mirrorpo.train.micro_batch import TOKENS_PER_CALL

# Of a row; few rows are a call that costs what calls cost, many are told apart by their tokens.
ROW_TOKENS, FEW_ROWS, MANY_ROWS = 64, 1, (32, 64)
REPEATS = 5


class CallCost(TypedDict):
    """For the manifest: the number of tokens, and where it comes from."""

    tokens: int
    source: str


def call_cost(model: LanguageModel, setting: int | None, recorded: CallCost | None, most: int) -> CallCost:
    """What a call costs, as it is set, as this run was begun with, or as it is measured on CUDA.

    Args:
        model: as it is loaded, complete in this process.
        setting: `tokens_per_call`.
        recorded: of a run that goes on, so that its batches are split alike.
        most: a call is worth no more than this many tokens.
    """
    if setting is not None:
        return CallCost(tokens=setting, source="tokens_per_call")
    if recorded is not None:
        return recorded
    if model.device.type != "cuda":
        return CallCost(tokens=TOKENS_PER_CALL, source="of a CPU")
    few, (many, more) = FEW_ROWS * ROW_TOKENS, [rows * ROW_TOKENS for rows in MANY_ROWS]
    seconds = {rows: _seconds(model, rows) for rows in (FEW_ROWS, *MANY_ROWS)}
    tokens = tokens_for(seconds[FEW_ROWS], few, (many, seconds[MANY_ROWS[0]]), (more, seconds[MANY_ROWS[1]]))
    return CallCost(
        tokens=min(tokens, most),
        source=f"measured on {torch.cuda.get_device_name(model.device)}: {1000 * seconds[FEW_ROWS]:.1f} ms a "
        f"call of {few} tokens, {1000 * seconds[MANY_ROWS[1]]:.1f} ms of {more}",
    )


def tokens_for(seconds: float, tokens: int, many: tuple[int, float], more: tuple[int, float]) -> int:
    """How many tokens of a large call take as long as a small call does beside its own.

    Args:
        seconds: of the small call.
        tokens: that it computes.
        many: tokens and seconds of a large call.
        more: those of a larger one.

    Example:
        >>> tokens_for(0.010, 0, (2000, 0.020), (4000, 0.040))
        1000
    """
    per_token = (more[1] - many[1]) / (more[0] - many[0])
    if per_token <= 0:
        # Nothing is saved by computing fewer tokens.
        return more[0]
    return max(round(seconds / per_token) - tokens, 1)


def _seconds(model: LanguageModel, rows: int) -> float:
    # The median of some calls, behind one that may compile or choose kernels.
    ids = torch.tensor(ordinary_ids(model)[:ROW_TOKENS], device=model.device)
    ids = ids.repeat(-(-ROW_TOKENS // len(ids)))[:ROW_TOKENS].expand(rows, -1)
    present = torch.ones_like(ids, dtype=torch.bool)
    positions = torch.arange(ROW_TOKENS, device=model.device).expand(rows, -1)
    with torch.no_grad(), evaluating(model.network):
        _, *seconds = [
            _timed(lambda: model.hidden(ids, present, positions), model.device) for _ in range(REPEATS + 1)
        ]
    return statistics.median(seconds)


def _timed(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
