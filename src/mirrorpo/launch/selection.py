"""How a sweep's settings were chosen, by another sweep on other seeds: node `selection`. Imports no torch.

`python -m analysis select` writes it into `sweeps/chosen/NAME.yaml`, with the settings that each arm gets as
`hydra.sweeper.along`, and a sweep composes both by `/chosen: NAME` in its defaults. It is of the launch, as
the plan is.
"""

from collections.abc import Mapping

from mirrorpo.config.identity import digest
from mirrorpo.config.values import JsonObject
from mirrorpo.launch.errors import LaunchError

DIGEST = "sha256"
SEEDS = "seeds"


def signed(node: JsonObject) -> JsonObject:
    """A selection with the digest of all that it says."""
    content = {key: value for key, value in node.items() if key != DIGEST}
    return {**content, DIGEST: digest(content)}


def read_selection(node: object) -> JsonObject:
    """A selection as it was written.

    Raises:
        LaunchError: if it was edited since, or put together of two.
    """
    if not isinstance(node, Mapping):
        raise LaunchError(f"selection={node}: compose a file that `python -m analysis select` wrote")
    selection = {str(key): value for key, value in node.items()}
    if signed(selection)[DIGEST] != selection.get(DIGEST):
        raise LaunchError(
            "selection: it is not as it was written, or put together of two files of sweeps/chosen; write it "
            "again with `python -m analysis select`, and let a sweep compose one"
        )
    return selection


def seed_error(seed: int, selection: JsonObject) -> str | None:
    """Why a cell of this seed is not to run; None where its settings were chosen on other seeds."""
    seeds = selection[SEEDS]
    if seed not in seeds:
        return None
    return (
        f"seed={seed}: settings were chosen on it ({selection['sweep']}, seeds "
        f"{', '.join(map(str, seeds))}), and a comparison on it would favour what was chosen; take others"
    )
