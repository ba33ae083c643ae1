"""What settings and classes were called before. Imports no torch.

A name that has changed goes on being read under its old form for one release, with a note. A run's hash, and
with it its folder, is over the names that its settings had first, so that a rename makes no run another one.
"""

import sys
from collections.abc import Mapping, Sequence

from mirrorpo.config.values import Config, JsonObject

# Run-level settings and groups: old -> new.
KEYS: Mapping[str, str] = {
    "coefficient": "beta_schedule",
    "mismatch": "importance_correction",
    "optimiser": "optim",
    "logger": "tracking",
    "tile": "logit_chunk",
}

# Classes that a config names in `_target_`: old -> new.
TARGETS: Mapping[str, str] = {
    "mirrorpo.coefficient.Fixed": "mirrorpo.divergence.beta_schedule.Fixed",
    "mirrorpo.coefficient.MatchedDrift": "mirrorpo.divergence.beta_schedule.MatchedDrift",
    "mirrorpo.mismatch.TruncatedImportance": "mirrorpo.algo.importance_correction.TruncatedImportance",
    "mirrorpo.model.load.Lora": "mirrorpo.model.lora.Lora",
    "mirrorpo.optim.AdamW": "mirrorpo.optim.adamw.AdamW",
    "mirrorpo.optim.Muon": "mirrorpo.optim.muon.Muon",
    "mirrorpo.optim.Schedule": "mirrorpo.optim.schedule.Schedule",
    "mirrorpo.reward.code_tests.CodeTests": "mirrorpo.reward.code.code_tests.CodeTests",
    "mirrorpo.reward.math_answer.MathAnswer": "mirrorpo.reward.math.math_answer.MathAnswer",
    "mirrorpo.tracking.NoTracker": "mirrorpo.run.tracking.NoTracker",
    "mirrorpo.tracking.WandB": "mirrorpo.run.tracking.WandB",
}

_FIRST_KEYS = {new: old for old, new in KEYS.items()}
_FIRST_TARGETS = {new: old for old, new in TARGETS.items()}


def upgraded(config: Config) -> JsonObject:
    """A nested config, of any age, under today's names.

    Example:
        >>> upgraded({"optimiser": {"_target_": "mirrorpo.optim.AdamW"}})
        {'optim': {'_target_': 'mirrorpo.optim.adamw.AdamW'}}
    """
    return {KEYS.get(key, key): _with_targets(value, TARGETS) for key, value in config.items()}


def first_named(settings: Config) -> JsonObject:
    """Dotted settings under the names that they had first: what hashes are over."""
    out = {}
    for key, value in settings.items():
        head, dot, rest = key.partition(".")
        named = _FIRST_KEYS.get(head, head) + dot + rest
        out[named] = (
            _FIRST_TARGETS.get(value, value)
            if key.endswith("_target_")
            else _with_targets(value, _FIRST_TARGETS)
        )
    return out


def renamed_arguments(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """A command line's overrides under today's names, and which old names stood in it.

    Example:
        >>> arguments, old_names = renamed_arguments(["coefficient=matched_drift", "seed=1"])
        >>> arguments, old_names
        (['beta_schedule=matched_drift', 'seed=1'], {'coefficient': 'beta_schedule'})
    """
    out: list[str] = []
    old_names: dict[str, str] = {}
    for argument in arguments:
        sign = argument[: len(argument) - len(argument.lstrip("+~"))]
        path, equals, value = argument[len(sign) :].partition("=")
        head = path.split(".", 1)[0].split("@", 1)[0]
        if not path.startswith("-") and head in KEYS and (equals or sign == "~"):
            old_names[head] = KEYS[head]
            path = KEYS[head] + path[len(head) :]
        out.append(sign + path + equals + value)
    return out, old_names


def accept_old_names(arguments: Sequence[str]) -> list[str]:
    """A command line under today's names; each old one that stood in it is named on the error stream."""
    renamed, old_names = renamed_arguments(arguments)
    for old, new in old_names.items():
        print(
            f"note: {old} is called {new} now; the old name is read until the next release", file=sys.stderr
        )
    return renamed


def _with_targets(value: object, names: Mapping[str, str]) -> object:
    if isinstance(value, Mapping):
        return {
            key: names.get(item, item) if key == "_target_" else _with_targets(item, names)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_with_targets(item, names) for item in value]
    return value
