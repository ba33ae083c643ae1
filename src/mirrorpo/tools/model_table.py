"""`python -m mirrorpo.tools.model_table`: in which ways each architecture of transformers can be read, tried.

Every architecture of `architectures.yaml` is built small, with random weights, and goes through the self-test
that a run's model goes through at load (`mirrorpo.train.model_check`).
"""

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from mirrorpo.config.paths import command
from mirrorpo.core.seeds import init_draws
from mirrorpo.model.adapter import adaptation, with_adapter
from mirrorpo.model.language_model import FAILURES, LanguageModel
from mirrorpo.model.load import finish
from mirrorpo.model.lora import Lora
from mirrorpo.model.words import word_tokenizer
from mirrorpo.tools.marked_page import publish
from mirrorpo.train.model_check import WAYS, ModelCheck, Way, model_check

MARKERS = ("<!-- models: made by python -m mirrorpo.tools.model_table -->", "<!-- /models -->")
COLUMNS = (
    "architecture", "shared prompts", "sampling", "hidden spans", "gradient", "attention", "adapter on all",
    "remarks",
)  # fmt: skip
# One row is as much as a column of its own.
HIDING: Sequence[Way] = ("pad", "block", "delete", "direct")
SAID: Mapping[str, str] = {"pad": "spans", "shared": "prompts", "sample": "sampling"}
TRIED: Sequence[Sequence[Way]] = (("shared",), ("sample",), HIDING, ("gradient",), ("attention",))
# Of a row, at most.
TOKENS = 32
VOCABULARY, PAD, EOS = 40, 0, 1
ADAPTER = Lora(rank=4, alpha=8, dropout=0.0, targets=None)
# Of embeddings, whose rows are no sums over a width.
LOOKED_UP = ("embed", "wte", "wpe")


@cache
def architectures() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Model type and settings of each architecture, by the name that the table has."""
    entries = yaml.safe_load((files("mirrorpo.tools") / "architectures.yaml").read_text())
    shapes = entries.pop("_shapes")
    out: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, entry in entries.items():
        settings: dict[str, Any] = {}
        for shape in entry.get("shapes", ()):
            settings |= shapes[shape]
        out[name] = entry["model_type"], settings | entry.get("settings", {})
    return out


def network(name: str) -> Any:
    """A small random network of an architecture, of which no two logits are near each other."""
    kind, settings = architectures()[name]
    special = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None}
    if "text_config" in settings:
        special.pop("vocab_size")
    config = AutoConfig.for_model(kind, **(dict(settings) | special))
    with init_draws(0), torch.no_grad():
        built = _from_config(config)
        head, inputs = built.get_output_embeddings(), built.get_input_embeddings()
        for key, parameter in built.named_parameters():
            if parameter.ndim >= 2 and "conv" not in key and "A_log" not in key:
                looked_up = any(part in key for part in LOOKED_UP)
                width = 1 if looked_up else parameter.shape[-1 if parameter.ndim < 3 else -2]
                scale = (1.0 if looked_up and "wpe" not in key else 1.2) / math.sqrt(width)
                parameter.copy_(scale * torch.randn_like(parameter))
            elif parameter.ndim == 1 and "A_log" not in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if head is not None and head.weight is not inputs.weight:
            head.weight.mul_(2.0)
    built.generation_config.eos_token_id = EOS
    return built.eval()


def _from_config(config: Any) -> Any:
    try:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    except ValueError as error:
        if "attention" not in str(error).lower() and "sdpa" not in str(error).lower():
            raise
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")


def loaded(name: str) -> LanguageModel:
    """A small model as a run would have it.

    Raises:
        ValueError: if the architecture is refused.
    """
    return finish(
        network(name),
        word_tokenizer(["a b c d e f g"]),
        dtype=torch.float32,
        device=torch.device("cpu"),
        checkpointing=False,
    )


def row(name: str) -> list[str]:
    """An architecture's cells."""
    try:
        model = loaded(name)
        model.check_context(TOKENS)
        check = model_check(model, [way for way in WAYS if way != "merge"])
        if "padded" in check.closed:
            raise ValueError(f"rows of unlike length together: {check.closed['padded']}")
    except ValueError as error:
        return [name, *["no"] * (len(COLUMNS) - 2), f"refused: {_short(str(error))}"]
    columns = [_open(check, ways) for ways in TRIED]
    remarks = [_short(note) for note in model.notes]
    # Where spans cannot be hidden, prompts cannot be shared for the same reason.
    reasons = {way: reason for way, reason in check.closed.items() if way not in HIDING[1:]}
    if HIDING[0] in reasons:
        reasons.pop("shared", None)
    remarks += [f"{SAID.get(way, way)}: {_short(reason)}" for way, reason in reasons.items()]
    adapted, remark = _adapted(model)
    return [name, *columns, adapted, "; ".join([*remarks, *remark])]


def _open(check: ModelCheck, ways: Sequence[Way]) -> str:
    return "no" if any(way in check.closed for way in ways) else "yes"


def _adapted(model: LanguageModel) -> tuple[str, list[str]]:
    try:
        adapted = with_adapter(model, ADAPTER, 0)
        check = model_check(adapted, ["merge"])
        extent = adaptation(adapted.network)
    except FAILURES as error:
        return "no", [f"adapter: {_short(str(error))}"]
    assert extent is not None
    if "merge" in check.closed:
        return "no", [f"adapter: {_short(check.closed['merge'])}"]
    left_out = f"adapter not on {', '.join(extent['left_out'])}"
    return f"{100 * extent['share']:.0f}%", [left_out] if extent["left_out"] else []


def _short(reason: str) -> str:
    # Without numbers that another machine would round otherwise, and without what another version would say.
    reason = re.sub(r" \([^)]*gap[^)]*\)|(?<=Error), .*|(?<=Error): .*(?=\))", "", reason.splitlines()[0])
    reason = re.sub(r"^model\.path: |^max_new_tokens: .*?tokens[;,] ", "", reason)
    return re.split(r"; (?:choose|lower|add|model\.)|, since|, so that", reason)[0].replace("|", "/")


def page(names: Sequence[str] | None = None) -> str:
    """The table of some architectures, or of all."""
    rows = [row(name) for name in names or architectures()]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    return "\n".join([*lines, *("| " + " | ".join(cells).rstrip() + " |" for cells in rows)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.model_table"),
        description="In which ways each architecture can be read, as a table.",
    )
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the table of this page")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # Of kernels that are not installed.
    logging.set_verbosity_error()
    try:
        if unknown := sorted(set(given.names) - architectures().keys()):
            raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(architectures())}")
        publish(page(given.names), given.write, MARKERS)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
