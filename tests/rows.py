"""The rows of conf/: what the shared suites are parametrised over."""

from collections.abc import Container
from pathlib import Path
from typing import Any

import yaml

# Likeliest tokens that are summed, of vocabularies of five to eleven.
TOP_K = 2

CONF = Path(__file__).parents[1] / "conf"


def names(axis: str, known: Container[str] | None = None) -> list[str]:
    """The YAML names of conf/AXIS.

    With `known`, only those that a suite can compare with something; `test_axes.py` names the others,
    with every table that they have to enter, in one message.
    """
    found = sorted(path.stem for path in (CONF / axis).glob("*.yaml"))
    return found if known is None else [name for name in found if name in known]


def weightings() -> list[str]:
    """The files of conf/weighting that give weights; the others give signed credit in their place."""
    return [name for name in names("weighting") if not name.startswith("segment_rollout")]


def segment_weightings() -> list[str]:
    """The files of conf/weighting that give signed credit."""
    return sorted(set(names("weighting")) - set(weightings()))


def own_class(axis: str, name: str) -> bool:
    """Whether a file says what is built, and not only another file's settings anew."""
    return "_target_" in yaml.safe_load((CONF / axis / f"{name}.yaml").read_text())


def class_of(divergence: str) -> str:
    """The class of a file, or of the one that it is another name for."""
    return settings_of(divergence)["_target_"].rpartition(".")[-1]


def settings_of(divergence: str, **changes: Any) -> dict[str, Any]:
    """What a file of conf/divergence says, or the one that it is another name for; a composition takes a
    hundred times as long.

    With a few tokens in a test's vocabulary, `k` is `TOP_K` where the file has one.
    """
    node = yaml.safe_load((CONF / "divergence" / f"{divergence}.yaml").read_text())
    if "_target_" not in node:
        return settings_of(node["defaults"][0], **changes)
    return node | ({"k": TOP_K} if "k" in node else {}) | changes


def forms(divergences: list[str]) -> list[str]:
    """The first file of each class: what reads a policy in its own way.

    The others of a class give the same reading another potential or generator, and what an algorithm does
    with the number does not depend on that. So the forms meet every algorithm and every weighting in `make
    test`, the others one; `make test-slow` has the full product.
    """
    first: dict[str, str] = {}
    for name in divergences:
        first.setdefault(class_of(name), name)
    return list(first.values())


def update_forms(algorithms: list[str]) -> list[str]:
    """The first of the algorithms that differ in their advantage alone.

    What an update does with an advantage does not depend on how it was made. So these meet every divergence
    and every weighting in `make test`, and the others one.
    """
    first: dict[str, str] = {}
    for name in algorithms:
        node = yaml.safe_load((CONF / "algo" / f"{name}.yaml").read_text())
        first.setdefault(yaml.safe_dump({key: node[key] for key in node if key != "advantage"}), name)
    return list(first.values())
