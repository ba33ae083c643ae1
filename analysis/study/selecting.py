"""The selection of a sweep's candidates, and the file by which another sweep gets what was chosen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from analysis.data.export import Export
from analysis.data.selections import RecordedArm, RecordedSelection
from analysis.study.design import Run, current_key
from analysis.study.endpoint import read_endpoint
from analysis.study.options import StudyOptions
from analysis.study.plan import plan_of
from analysis.study.question_scores import evaluation_metric
from analysis.study.selection import Candidate, Choice, Value, choose, imbalance
from analysis.study.study import Study
from mirrorpo.config.identity import digest, flat
from mirrorpo.config.override_text import quoted
from mirrorpo.config.paths import sweeps
from mirrorpo.config.renamed import upgraded
from mirrorpo.launch.selection import signed

FOLDER = "chosen"
HEADER = """# @package _global_
# Written by `python -m analysis select`; a launch refuses it where it was edited. A sweep composes it by
# `/chosen: {name}` in its defaults: its arms get the settings below, and its record how they were chosen.
"""


class _Dumper(yaml.SafeDumper):
    """Quotes text that Hydra's loader takes for a number and YAML 1.1 does not, such as 1e-3."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What the arms of a sweep get.

    Attributes:
        study: of the candidates' runs.
        over: the settings that were chosen.
        metric: the endpoint's name.
        choices: an arm each.
    """

    study: Study
    over: Sequence[str]
    metric: str
    choices: Sequence[Choice]

    @property
    def rule(self) -> str:
        """In a sentence."""
        best = "lowest" if read_endpoint(self.metric).higher_is_better is False else "highest"
        return (
            f"{best} mean of {self.metric} over the seeds; of equal ones the smaller {', '.join(self.over)}"
        )

    @property
    def seeds(self) -> list[int]:
        """That it was chosen on."""
        return sorted({run.seed for run in self.study.design.runs})

    @property
    def remarks(self) -> list[str]:
        """What has to be said of all arms together."""
        return [text for text in [imbalance(self.choices)] if text]

    def record(self) -> RecordedSelection:
        """All of it, with digests."""
        runs = self.study.design.runs
        values = [
            [run.name, run.row["config_hash"], run.seed, self.study.value(run, self.metric)] for run in runs
        ]
        common = {
            name: runs[0].row[name]
            for name in ("algo", "divergence", "weighting", "model", "dataset", "steps")
            if len({run.row[name] for run in runs}) == 1
        }
        content = {
            "sweep": str(runs[0].row["sweep"]).rpartition("/")[2],
            "setting": common,
            "commits": sorted({str(run.row["commit"]) for run in runs}),
            "runs": len(runs),
            "runs_sha256": digest({"runs": sorted(values)}),
            "axis": self.study.design.axis,
            "over": list(self.over),
            "metric": self.metric,
            "rule": self.rule,
            "seeds": self.seeds,
            "remarks": self.remarks,
            "arms": {choice.arm: self._recorded(choice) for choice in self.choices},
        }
        return cast(RecordedSelection, signed(content))

    def _recorded(self, choice: Choice) -> RecordedArm:
        return {
            "chosen": dict(choice.best.settings),
            "candidates": [
                {
                    "settings": dict(candidate.settings),
                    "values": [candidate.by_seed[seed] for seed in self.seeds],
                }
                for candidate in choice.candidates
            ],
            "remarks": choice.remarks,
        }


def select(export: Export, over: Sequence[str], options: StudyOptions) -> Selection:
    """The best settings of each arm.

    Args:
        export: the candidates' runs.
        over: the settings to choose, as dotted keys; the smaller value of the first breaks ties.
        options: of the study; without a metric the endpoint of the sweep's plan.

    Raises:
        ValueError: if something else varies too, the endpoint has no direction or is one of test questions.
        Refused: if a guard forbids a table of the runs.
    """
    keys = [current_key(key) for key in over]
    if not keys:
        raise ValueError("over=: name the settings to choose, such as --over divergence.beta,lr")
    made = replace(options, metric=options.metric or _planned_metric(export), by=[*options.by, *keys]).of(
        export
    )
    _refuse_others(made, keys)
    metric = str(made.endpoint or read_endpoint(made.metric))
    if (higher := read_endpoint(metric).higher_is_better) is None:
        raise ValueError(f"metric={metric}: more of it is neither better nor worse; choose by another one")
    on_test = {str(run.settings.get("eval_split")) for run in made.design.runs} != {"validation"}
    if on_test and evaluation_metric(read_endpoint(metric).metric) is not None:
        raise ValueError(f"metric={metric}: of test questions; choose by validation questions (eval_split)")
    arms = list(dict.fromkeys(_arm(made, run) for run in made.ordered_runs()))
    choices = [
        choose(arm, _candidates(made, arm, keys, metric), keys, higher=higher)
        for arm in sorted(arms, key=lambda arm: arm != made.design.choices[made.design.baseline])
    ]
    return Selection(study=made, over=keys, metric=metric, choices=choices)


def write(selection: Selection, name: str) -> Path:
    """The file of a selection, for a sweep to compose.

    Args:
        selection: what was chosen.
        name: of the file in `sweeps/chosen`, or the path of a file that ends in .yaml.

    Raises:
        ValueError: if there is another selection under this name.
    """
    path = Path(name) if name.endswith(".yaml") else sweeps() / FOLDER / f"{name}.yaml"
    axis, record = selection.study.design.axis, selection.record()
    along = {
        f"{axis}={arm}": {key: typed(value) for key, value in entry["chosen"].items()}
        for arm, entry in record["arms"].items()
    }
    node = {"hydra": {"sweeper": {"along": along}}, "selection": dict(record)}
    body = yaml.dump(
        node, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=140, allow_unicode=True
    )
    text = HEADER.format(name=path.stem) + body
    if path.exists() and path.read_text() != text:
        raise ValueError(f"write={name}: {path} has another selection; delete it, or take another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def typed(value: object) -> object:
    """A value of `along`, which a sweeper types behind its setting: text and null as they are typed there.

    Example:
        >>> typed(0.5), typed(None), typed("cosine"), typed("1e-3"), typed("a,b")
        (0.5, 'null', 'cosine', "'1e-3'", "'a,b'")
    """
    if value is None or isinstance(value, list):
        return json.dumps(value)
    if not isinstance(value, str):
        return value
    try:
        override = OverridesParser.create().parse_override(f"setting={value}")
        plain = not override.is_sweep_override() and override.value() == value
    except HydraException:
        plain = False
    return value if plain else quoted(value)


def _planned_metric(export: Export) -> str | None:
    names = [str(row["sweep"]).rpartition("/")[2] for row in export.records if row["sweep"]]
    plan, _ = plan_of(export.plans, names)
    if plan is None or not plan.metric:
        raise ValueError("metric=: the sweep's plan names no endpoint; name one, such as auc:reward/mean")
    return plan.metric


def _refuse_others(made: Study, keys: Sequence[str]) -> None:
    others = [*made.design.others, *(key for key in made.design.swept if key not in keys)]
    if others:
        raise ValueError(
            f"over={','.join(keys)}: {', '.join(others)} varies too; choose over it, name it as the axis, or "
            "select within one of its values"
        )


def _arm(made: Study, run: Run) -> str:
    return str(run.row[made.design.axis])


def _candidates(made: Study, arm: str, keys: Sequence[str], metric: str) -> list[Candidate]:
    runs: dict[str, list[Run]] = {}
    for run in made.design.runs:
        if _arm(made, run) == arm:
            runs.setdefault(run.arm, []).append(run)
    return [
        Candidate(
            settings=_settings(same[0], keys),
            by_seed={run.seed: made.value(run, metric) for run in same},
        )
        for same in runs.values()
    ]


def _settings(run: Run, keys: Sequence[str]) -> dict[str, Value]:
    """The settings that a run has; null is one of its config, though none of its identity."""
    config = flat(upgraded(json.loads(run.row["config"] or "{}")))
    known = {**{key: None for key, value in config.items() if value is None}, **run.settings}
    return {key: known[key] for key in keys if key in known}
