"""The model card of a run's policy, `policy/README.md` in the form of Hugging Face's hub.

All of it is what the run's manifest and metrics say; neither a time nor the run's folder is in it, so that
two runs of one cell have the same card.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

from mirrorpo.config.cell import Cell
from mirrorpo.config.values import JsonObject
from mirrorpo.run.inputs import SHIPPED
from mirrorpo.train import equation
from mirrorpo.train.build import Components

CARD = "README.md"
LEVEL = 0.95
# Of the run's own evaluation, with what the card calls them.
SHARES: Mapping[str, str] = {"greedy_accuracy": "greedy accuracy", "strict_accuracy": "by the strict reading"}
PACKAGES = ("python", "torch", "transformers", "peft", "vllm", "mirrorpo")
INTENDED = (
    "For research on reinforcement learning of language models: to compare divergences and token weightings, "
    "and to repeat what is said of this run. It was trained to answer the questions above and evaluated on "
    "them alone. Nothing was done to make it safe or useful elsewhere, and it keeps its base's faults."
)


def model_card(
    cell: Cell, components: Components, manifest: JsonObject, rows: Iterable[Mapping[str, float]]
) -> str:
    """The card of a run that took its last step.

    Args:
        cell: the run.
        components: its parts.
        manifest: what it recorded.
        rows: of its metrics.
    """
    base = str(cell.config["model"].get("path") or "")
    sections = [
        ("Base", _base(base, manifest)),
        ("Data", _data(cell, manifest)),
        ("Algorithm", _algorithm(components)),
        ("Evaluation", _evaluation(cell, rows)),
        ("Settings", _settings(cell, manifest)),
        ("Intended use", [INTENDED]),
        ("Licence", [_licence(base)]),
    ]
    body = [line for title, lines in sections for line in ("", f"## {title}", "", *lines)]
    title = f"# {cell.config['name']}: {cell.label}, seed {cell.config['seed']}"
    return "\n".join([*_metadata(base, cell, manifest), "", title, *body, ""])


def _metadata(base: str, cell: Cell, manifest: JsonObject) -> list[str]:
    adapter = bool(manifest.get("adapter"))
    on_hub = bool(base) and ":" not in base and base.count("/") == 1 and not base.startswith((".", "/", "~"))
    choices = [cell.choices[axis] for axis in ("algo", "divergence", "weighting")]
    return [
        "---",
        f"library_name: {'peft' if adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        *([f"base_model: {json.dumps(base)}"] if on_hub else []),
        "tags:",
        *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(["mirrorpo", "reinforcement-learning", *choices])),
        "---",
    ]


def _base(base: str, manifest: JsonObject) -> list[str]:
    parameters: Mapping[str, int] = manifest.get("parameters") or {}
    origin: JsonObject = manifest.get("model_run") or {}
    revision = manifest.get("model_commit")
    trained = f"{parameters['trained']:,} of {parameters['all']:,} parameters" if parameters else ""
    entries = [
        (
            "start model",
            f"`{base}`{f', commit {revision}' if revision else ''}" if base else "made from scratch",
        ),
        ("trained", trained),
        ("adapter", json.dumps(manifest["adapter"], sort_keys=True) if manifest.get("adapter") else ""),
        ("which is the policy of a run", f"config {origin.get('config_hash')}" if origin else ""),
        ("computed in", manifest.get("computed_in")),
    ]
    return _items(entries)


def _data(cell: Cell, manifest: JsonObject) -> list[str]:
    counts: Mapping[str, int] = manifest.get("questions") or {}
    data: Mapping[str, str] = manifest.get("data") or {}
    split = cell.config["eval_split"]
    entries = [
        ("data set", f"`{cell.choices['dataset']}`"),
        ("trained on", f"{counts['train']:,} questions of its split train" if counts else ""),
        ("evaluated on", f"{counts['evaluated']:,} questions of its split {split}" if counts else ""),
        ("content, sha256", ", ".join(f"{name} `{str(value)[:16]}`" for name, value in sorted(data.items()))),
        ("answers judged by", f"`{manifest.get('reward_version')}`"),
    ]
    return _items(entries)


def _algorithm(components: Components) -> list[str]:
    lines = [equation.loss(components), *equation.signed_credit(components)]
    parts = [line for term in equation.terms(components) for line in ("", *term.lines())]
    return ["```text", *lines, *parts, "```"]


def _evaluation(cell: Cell, rows: Iterable[Mapping[str, float]]) -> list[str]:
    """A table of the first and the last evaluation, with Wilson's intervals for new questions."""
    evaluated = [row for row in rows if "eval/questions" in row]
    if not evaluated:
        return ["It was not evaluated."]
    first, last = evaluated[0], evaluated[-1]
    lines = [f"| | step {first['step']:.0f} | step {last['step']:.0f} |", "|---|---:|---:|"]
    for name, label in SHARES.items():
        if f"eval/{name}" in last:
            lines.append(f"| {label} | {_share(first, name)} | {_share(last, name)} |")
    sampled = sorted(name for name in last if name.startswith("eval/avg@"))
    lines += [
        f"| {name.removeprefix('eval/')} | {_percent(first.get(name))} | {_percent(last[name])} |"
        for name in sampled
    ]
    return [
        *lines,
        "",
        f"Of {last['eval/questions']:.0f} questions of the split {cell.config['eval_split']}, with Wilson's "
        f"{LEVEL:.0%} interval for new questions of this kind. It is one run of one seed: another seed's "
        "accuracy differs by more than these intervals say. The last step is the one that was kept; none was "
        "chosen by its score.",
    ]


def _share(row: Mapping[str, float], name: str) -> str:
    share = row.get(f"eval/{name}")
    if share is None:
        return ""
    low, high = wilson(share, row["eval/questions"])
    return f"{_percent(share)} [{100 * low:.1f}, {100 * high:.1f}]"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a share of n.

    Example:
        >>> low, high = wilson(0.5, 100)
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _settings(cell: Cell, manifest: JsonObject) -> list[str]:
    versions: Mapping[str, str | None] = manifest.get("versions") or {}
    commit = f"{manifest.get('commit')}{', with changes' if manifest.get('dirty') else ''}"
    packages = [f"{name} {versions[name]}" for name in PACKAGES if versions.get(name)]
    choices = ", ".join(f"{axis} `{name}`" for axis, name in cell.choices.items())
    differing = ", ".join(f"`{key}={value}`" for key, value in sorted(cell.settings.items()))
    entries = [
        ("choices", choices),
        ("other settings than theirs", differing),
        ("seed", str(cell.config["seed"])),
        ("steps", str(cell.config["steps"])),
        ("config", f"`{cell.hash}`"),
        ("code", f"commit {commit}"),
        ("packages", ", ".join(packages)),
    ]
    return _items(entries)


def _licence(base: str) -> str:
    if base.startswith(SHIPPED):
        return (
            "The weights, the code that trained them and the model that they began with have the MIT licence."
        )
    of_base = f"the licence of its base, `{base}`" if base else "no licence of a base"
    return (
        f"The weights stand under {of_base}, which this card does not know, and the questions under that of "
        "their data set. The code that trained it has the MIT licence."
    )


def _items(entries: Sequence[tuple[str, object]]) -> list[str]:
    return [f"- {name}: {value}" for name, value in entries if value]
