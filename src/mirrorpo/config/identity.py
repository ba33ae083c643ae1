"""What makes two configs the same run. Imports no torch."""

import hashlib
import json
import re
from collections.abc import Mapping

from mirrorpo.config.renamed import first_named, upgraded
from mirrorpo.config.values import Config, JsonObject

# What changes no number in metrics.jsonl is not part of a run's identity.
NOT_IDENTITY = (
    "out",
    "name",
    "tracking",
    "progress",
    "checkpoint_every",
    "checkpoint_minutes",
    "checkpoint_async",
    "keep_checkpoints",
    "shown_completions",
    "extend",
    "allow_equal_arms",
    "dataset.root",
    "sandbox",
    "reward.sandbox",
    "reward.workers",
)

# Settings that came after the first runs, with the value that does what was done before them. At that value a
# setting is no part of a run's identity, so that a folder keeps its name.
ADDED: Mapping[str, object] = {
    "compile": "none",
    "drift_every": 1,
    "contamination_questions": 0,
    "right_answer_questions": 0,
    # What it changes, of models that think in tags, goes with the reward's version.
    "reward.thinking": "skip",
    "reward.decimal_mark": "point",
    "reward.top_level": "definitions",  # likewise
    "head_precision": "float32",
    "trust_region._target_": "mirrorpo.algo.trust_region.NoTrustRegion",
    "trust_region.k": 64,
    "entropy._target_": "mirrorpo.algo.entropy.NoEntropyControl",
    "eval_datasets": [],
    "importance_correction._target_": "mirrorpo.algo.importance_correction.NoCorrection",
    "rollout.lag": 0,
    "rollout.coarse": "none",
    "algo.token_normalisation.ddof": 0,
}
# A set of `eval_datasets` has settings under the names that they have in a run.
EVAL_SETS = "eval_sets"

# Where a reward stands in one that is made of several.
_PART_OF_A_REWARD = re.compile(r"^reward\.(?:(?:parts\.[^.]+\.reward|proxy|gold)\.)+")


def flat(data: Config, prefix: str = "") -> JsonObject:
    """Nested settings as dotted keys.

    Example:
        >>> flat({"algo": {"low": 0.2}, "seed": 1})
        {'algo.low': 0.2, 'seed': 1}
    """
    out: JsonObject = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def identity(data: Config) -> JsonObject:
    """The settings that make a run what it is: all but the plumbing, as dotted keys.

    1 and 1.0 are one value; null is the same as absent, and so is the value that `ADDED` names.
    """
    kept = {key: value for key, value in flat(upgraded(data)).items() if is_identity(key)}
    return {
        key: _canonical(value)
        for key, value in kept.items()
        if value is not None and not (in_a_run(key) in ADDED and value == ADDED[in_a_run(key)])
    }


def is_identity(key: str) -> bool:
    """Whether a dotted setting is part of what makes a run.

    Example:
        >>> is_identity("model.path"), is_identity("tracking.project")
        (True, False)
        >>> is_identity("reward.parts.tests.reward.workers"), is_identity("reward.parts.tests.weight")
        (False, True)
    """
    key = _PART_OF_A_REWARD.sub("reward.", in_a_run(key))
    return not any(key == plumbing or key.startswith(plumbing + ".") for plumbing in NOT_IDENTITY)


def in_a_run(key: str) -> str:
    """What a dotted setting is called at a run's top level, where it is one of an evaluation set.

    Example:
        >>> in_a_run("eval_sets.gsm8k.dataset.root"), in_a_run("dataset.root")
        ('dataset.root', 'dataset.root')
    """
    return key.split(".", 2)[-1] if key.startswith(f"{EVAL_SETS}.") else key


def _canonical(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def config_hash(data: Config) -> str:
    """16 hexadecimal digits over a config's identity; independent of key order."""
    return digest(first_named(identity(data)))[:16]


def digest(data: Mapping[str, object]) -> str:
    """sha256 over sorted JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def differences(first: Config, second: Config) -> dict[str, tuple[object, object]]:
    """The identity keys in which two configs differ, with both values; a missing key counts as None."""
    a, b = identity(first), identity(second)
    return {
        key: (a.get(key), b.get(key))
        for key in sorted(a.keys() | b.keys())
        if digest({"": a.get(key)}) != digest({"": b.get(key)})
    }
