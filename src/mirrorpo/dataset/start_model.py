"""What a planted world and the start model that was made for it have to agree on.

Some settings of a dataset act in its demonstrations alone. A row that samples does not read those, so they
reach it through the start model that was trained on them, and by no other way.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mirrorpo.config.override_text import override_of
from mirrorpo.core.protocols import Assembly, Config, Inert
from mirrorpo.run.manifest import MANIFEST, read_manifest
from mirrorpo.run.model_run import model_run


@dataclass(frozen=True, kw_only=True, slots=True)
class StartModel:
    """A model that ships with the package, and what it was made with.

    Attributes:
        path: the `model.path` that names it.
        scratch: the `model` that another one is made from.
        made_with: settings of the dataset, as they were at its training; those that are compared.
    """

    path: str
    scratch: str
    made_with: Config

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """The shipped model is for the settings that it was made with."""
        if group != "dataset" or _path(assembly) != self.path or not assembly.rollout.samples:
            return
        ours = assembly.config[group]
        other = [name for name, value in self.made_with.items() if ours.get(name) != value]
        if other:
            typed = " ".join(shlex.quote(override_of(f"{group}.{name}", ours.get(name))) for name in other)
            made = ", ".join(override_of(name, self.made_with[name]) for name in other)
            yield (
                f"{typed} with model.path={self.path}: that start model was made with {made}; make another "
                f"by `python train.py algo=sft model={self.scratch} {typed}` and set model.path to its "
                "run's folder"
            )

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """A start model of a run of ours that was made with other settings."""
        origin = _origin(assembly.config) if group == "dataset" and assembly.rollout.samples else {}
        made, ours = origin.get(group, {}), assembly.config[group]
        if made.get("_target_") != ours.get("_target_"):
            return
        for name in self.made_with:
            if name in made and made[name] != ours.get(name):
                yield (
                    f"{override_of(f'{group}.{name}', ours.get(name))}: the run behind model.path was made "
                    f"with {override_of(f'{group}.{name}', made[name])}; set that, or another model.path"
                )
        length = assembly.config["max_new_tokens"]
        if origin.get("max_new_tokens", 0) > length:
            yield (
                f"max_new_tokens={length}: the run behind model.path was made with "
                f"max_new_tokens={origin['max_new_tokens']}; answers that long are cut"
            )


def demonstrated(names: Iterable[str], group: str, assembly: Assembly) -> Iterable[Inert]:
    """Settings that act in demonstrations alone, of a run that reads none.

    Args:
        names: of the settings.
        group: of the dataset.
        assembly: the run.
    """
    reads = (
        not assembly.rollout.samples
        # A model from nothing takes its words from them.
        or _path(assembly) is None
        or assembly.config.get("right_answer_questions", 0) > 0
    )
    if not reads:
        settings = tuple(f"{group}.{name}" for name in names)
        yield Inert(
            settings,
            f"{', '.join(settings)} act in demonstrations alone, which a run that samples does not read",
            "algo=sft, or for each arm the model.path of a start model that was made with its settings,",
        )


def _path(assembly: Assembly) -> str | None:
    return assembly.config["model"].get("path")


def _origin(config: Config) -> Config:
    # The settings of the run whose policy model.path names.
    run = model_run(config)
    if run is None or "config_hash" not in run:
        return {}
    return read_manifest(Path(run["folder"]) / MANIFEST)["config"]
