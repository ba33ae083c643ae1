"""`python -m mirrorpo.tools.card_table`: what each model needs of a card, and how long 1,000 steps may take.

Memory is that of `mirrorpo.train.memory_plan`. Time is a roofline: the arithmetic of a step over a card's
rates, or its kernels over the rate at which they are launched, whichever is more. It was never measured.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from mirrorpo.config.paths import command
from mirrorpo.core.protocols import EngineMemory, SamplingSizes
from mirrorpo.model.sizes import ModelSizes, Shape, shape_of
from mirrorpo.rollout.native import Native
from mirrorpo.rollout.vllm import Colocated
from mirrorpo.tools.marked_page import publish
from mirrorpo.train.memory_plan import GIB, Load, peak, totals, usable

MARKERS = ("<!-- card: made by python -m mirrorpo.tools.card_table -->", "<!-- /card -->")
COLUMNS = (
    "`model=`", "trained", "`gradient_checkpointing`", "in an update, GiB", "most, `native`", "most, `vllm`",
    "most, `vllm` asleep", "1,000 steps, hours", "64 x 8 x 512, s a step",
)  # fmt: skip
# What a card that is sold as 80 GB has.
CARD = 79 * GIB
# As shipped: conf/model, conf/recipe/model, conf/recipe/gsm8k.yaml, conf/rollout.
CHECKPOINTED = ("llama", "qwen3_4b")
TOKENS, LOGIT_CHUNK, PROMPT, COMPLETION, ROWS, EVALUATED = 8192, 1024, 420, 256, 32, 500
NATIVE = Native(rows_at_once=256, compact_at=0.1, check_every=1, cache_block=64, top_p=1.0)
VLLM = Colocated(top_p=1.0, dtype="auto", memory=0.3, max_model_len=None, enforce_eager=False, sleep=False)


@cache
def shapes() -> Mapping[str, Shape]:
    """The decoders, smallest first."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load(
        (files("mirrorpo.tools") / "published_models.yaml").read_text()
    )
    out: dict[str, Shape] = {}
    for name, settings in entries.items():
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        with torch.device("meta"):
            out[name] = shape_of(AutoModelForCausalLM.from_config(config))
    return out


def load(shape: Shape, *, adapters: bool, checkpointing: bool, engine: Native | Colocated) -> Load:
    """The papers' cell with a divergence to the start model, on one card."""
    model = ModelSizes(shape=shape, rank=0, adapters=0, dropout=False, compute=2, checkpointing=checkpointing)
    if adapters:
        model = model.with_adapters(rank=16, dropout=True)
    held = engine.device_memory(
        SamplingSizes(
            card=CARD,
            rows=max(ROWS, EVALUATED),
            tokens=PROMPT + COMPLETION,
            token_bytes=2 * shape.cached,
            vocabulary=shape.vocabulary,
        )
    )
    return Load(
        model=model,
        trains=True,
        reference=True,
        optimiser=8 * model.trained,
        tokens=TOKENS,
        prompt=PROMPT,
        completion=COMPLETION,
        shared=True,
        anchored=0,
        logit_chunk=LOGIT_CHUNK,
        head=4,
        engine=held,
    )


@dataclass(frozen=True, slots=True)
class Rates:
    """Of an H100 (SXM): operations and bytes a second that large kernels reach, and seconds a launch."""

    half: float = 550e12
    single: float = 50e12
    memory: float = 3.0e12
    launch: float = 5.5e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a step computes, as `plan_micro_batches` splits it.

    Attributes:
        calls: of the network in a pass: prompts, and runs behind them.
        computed: tokens of a pass, padding included.
        read: completion tokens, which the head reads.
        longest: tokens of the longest completion.
    """

    calls: int
    computed: int
    read: int
    longest: int


# 8 prompts of 4 completions of 180 tokens (conf/recipe/gsm8k.yaml), and 64 of 8 of 345.
RECIPE = Step(calls=5, computed=8666, read=5814, longest=256)
LARGE = Step(calls=96, computed=225_896, read=176_714, longest=512)
# Evaluations of a recipe's run: how many, and calls of `rollout=native` in each, 256 rows at once.
EVALUATIONS, EVALUATION_CALLS = 11, 4
# Kernels of a layer, forward and backward, counted on Qwen3; with adapters.
KERNELS, ADAPTER_KERNELS = (70, 115), (145, 162)
# Bytes that elementwise kernels move for a token in a layer of widths 2,048 and 6,144, forward and backward.
MOVED = (469e3, 1063e3)
# Judging, metrics and files, on the processor: of a step, and of a completion token.
REST_S, REST_TOKEN_S = 0.2, 7e-6
# vLLM: rows in flight, tokens that each has behind it, and seconds of a token and of a rollout beside.
IN_FLIGHT, BEHIND, SCHEDULED_S, BEGUN_S = 384, 400, 0.006, 0.6


def native_token(model: ModelSizes, rates: Rates) -> float:
    """Seconds in which `rollout=native` samples a token of every row: its kernels, or its weights."""
    kernels = (ADAPTER_KERNELS if model.rank else KERNELS)[0]
    return max(kernels * model.shape.layers * rates.launch, 2 * model.shape.parameters / rates.memory)


def vllm_rollout(model: ModelSizes, rates: Rates, step: Step) -> float:
    """Seconds in which vLLM samples a rollout."""
    shape = model.shape
    read = 2 * shape.parameters + IN_FLIGHT * BEHIND * 2 * shape.cached
    token = read / rates.memory + IN_FLIGHT * 2 * shape.parameters / rates.half + SCHEDULED_S
    return step.read / IN_FLIGHT * token + BEGUN_S


def learning(model: ModelSizes, rates: Rates, step: Step) -> float:
    """Seconds of the reference's pass and an update: layers in bfloat16, not compiled; a float32 head."""
    shape = model.shape
    wide = 0.5 * shape.width / 2048 + 0.5 * shape.intermediate / 6144
    kernels = ADAPTER_KERNELS if model.rank else KERNELS
    products = (1.0, 1.0 if model.rank else 2.0)

    def passes(kind: int) -> float:
        moved = MOVED[kind] * wide * shape.layers / rates.memory
        token = 2 * products[kind] * shape.hidden / rates.half + moved
        return max(step.computed * token, step.calls * kernels[kind] * shape.layers * rates.launch)

    head = step.read * 2 * shape.vocabulary * shape.width / rates.single
    forward, backward = passes(0), passes(1)
    again = forward if model.checkpointing else 0.0
    heads = 1 + (2 if model.rank else 3)
    return 2 * forward + backward + again + heads * head + 28 * model.trained / rates.memory


def hours(model: ModelSizes, rates: Rates) -> float:
    """Of a run of 1,000 steps of the papers' cell with `rollout=native`, its evaluations included."""
    token, rest = native_token(model, rates), REST_S + REST_TOKEN_S * RECIPE.read
    step = RECIPE.longest * token + learning(model, rates, RECIPE) + rest
    return (1000 * step + EVALUATIONS * EVALUATION_CALLS * RECIPE.longest * token) / 3600


def large_step(model: ModelSizes, rates: Rates) -> float:
    """Seconds of a step of 64 x 8 completions of up to 512 tokens, sampled by vLLM."""
    rest = REST_S + REST_TOKEN_S * LARGE.read
    return vllm_rollout(model, rates, LARGE) + learning(model, rates, LARGE) + rest


def row(name: str, adapters: bool) -> list[str]:
    """A model's cells."""
    checkpointing = name in CHECKPOINTED
    engines = (NATIVE, VLLM, replace(VLLM, sleep=True))
    loads = [
        load(shapes()[name], adapters=adapters, checkpointing=checkpointing, engine=engine)
        for engine in engines
    ]
    update = totals(replace(loads[0], engine=EngineMemory()))["update"]
    model, rates = loads[0].model, Rates()
    fits = min(map(peak, loads)) <= usable(CARD)
    return [
        f"`{name}`",
        "adapters, rank 16" if adapters else "all",
        str(checkpointing).lower(),
        f"{update / GIB:.0f}",
        *(_cell(peak(held)) for held in loads),
        *([f"{hours(model, rates):.1f}", f"{large_step(model, rates):.0f}"] if fits else ["-", "-"]),
    ]


def _cell(size: int) -> str:
    return f"{size / GIB:.0f}" if size <= usable(CARD) else f"refused: {size / GIB:.0f}"


def page() -> str:
    """The table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    rows = [row(name, adapters) for name in shapes() for adapters in (False, True)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.card_table"),
        description="What each model needs of a card of 80 GB, and how long 1,000 steps may take.",
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the table of this page")
    given = parser.parse_args(arguments)
    try:
        publish(page(), given.write, MARKERS)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
