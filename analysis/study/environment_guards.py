"""What forbids a table because runs were made by other means: weights, devices, packages, sandboxes."""

import json
from collections.abc import Callable, Hashable, Sequence

from analysis.study.design import Run
from analysis.study.finding import Finding, differing

# Packages that no digest of the code has, and that verdicts, samples or adapters depend on.
PACKAGES = ("math-verify", "vllm", "peft")


def other_environment(runs: Sequence[Run]) -> list[Finding]:
    """Runs of other weights, maps or left out questions, or on another device or with other packages."""
    out = [
        *_named("mirror_map", "stale", runs, _text("mirror_map"), lambda run: (run.block, run.arm)),
        *_named("model commit", "stale", runs, _text("model_commit"), _model),
        *_named("parameters", "stale", runs, _text("parameters"), _model),
        *_named("questions left out", "data", runs, _left_out, _dataset),
        *_named("device", "environment", runs, _text("device"), lambda run: None),
        *_named("precision", "environment", runs, _text("computed_in"), _precision),
        *_named("sandbox", "environment", runs, _text("sandbox"), lambda run: run.row["dataset"]),
    ]
    for package in PACKAGES:
        out += _named(package, "environment", runs, _version(package), lambda run: None)
    return out


def _named(
    name: str,
    kind: str,
    runs: Sequence[Run],
    value: Callable[[Run], str | None],
    group: Callable[[Run], Hashable],
) -> list[Finding]:
    return [Finding(kind, f"{name}: {finding.text}") for finding in differing(kind, runs, value, group)]


def _text(column: str) -> Callable[[Run], str | None]:
    # A column that no run of a version has says nothing; where one run has a map, or a commit, all need one.
    def value(run: Run) -> str | None:
        known = run.row.get(column)
        return str(known) if known is not None else "none" if run.row.get("device") is not None else None

    return value


def _left_out(run: Run) -> str | None:
    known = run.row.get("bad_data")
    uids = sorted(json.loads(known)) if known else []
    return ", ".join(uids) or ("none" if run.row.get("device") is not None else None)


def _version(package: str) -> Callable[[Run], str | None]:
    def value(run: Run) -> str | None:
        versions = json.loads(run.row.get("versions") or "{}")
        # Runs of a version that did not record it say nothing.
        return str(versions[package] or "absent") if package in versions else None

    return value


def _settings(run: Run, *prefixes: str) -> Hashable:
    return repr([item for item in sorted(run.settings.items()) if item[0].startswith(prefixes)])


def _model(run: Run) -> Hashable:
    return run.row["model"], _settings(run, "model.")


def _dataset(run: Run) -> Hashable:
    return run.row["dataset"], _settings(run, "dataset.", "reward.")


def _precision(run: Run) -> Hashable:
    return run.row["model"], _settings(run, "model.dtype", "head_precision", "device")
