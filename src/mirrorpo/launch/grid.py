"""The product of the command line's choices; a cell that does not compose is the launcher's to report."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from omegaconf import open_dict

from mirrorpo.config.override_text import override_of
from mirrorpo.config.renamed import accept_old_names
from mirrorpo.config.typed import with_new_keys
from mirrorpo.launch.along import refuse_interval, refuse_malformed, unmatched, with_along
from mirrorpo.launch.arguments import quoted_paths
from mirrorpo.launch.errors import LaunchError
from mirrorpo.run.errors import unwritable


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, which would refuse a whole grid for one bad cell."""

    def __init__(
        self,
        *,
        max_batch_size: int | None,
        params: dict[str, str] | None,
        along: Mapping[str, Mapping[str, object]] | None = None,
        **search: object,
    ) -> None:
        if search:
            raise LaunchError(
                f"this sweep sets hydra.sweeper.{', hydra.sweeper.'.join(search)}: it is a search, "
                f"add hydra/sweeper=es"
            )
        arguments = accept_old_names([override_of(key, value) for key, value in (params or {}).items()])
        arguments = with_new_keys(quoted_paths(arguments))
        # In place of BasicSweeper's own, which breaks once Hydra has scanned for plug-ins a second time in a
        # process: it loads that class anew, and `super` of the new one takes no instance of this one.
        self.overrides, self.batch_index, self.max_batch_size = None, 0, max_batch_size
        self.params = dict(argument.split("=", 1) for argument in arguments)
        refuse_malformed({} if along is None else along)
        self.along = along or {}

    def sweep(self, arguments: list[str]) -> None:
        """Run the grid; its folder gets multirun.yaml, what was asked for."""
        assert self.config is not None
        if self.config.hydra.launcher.get("dry_run"):
            # Hydra writes multirun.yaml whatever happens; a dry run leaves nothing behind.
            with tempfile.TemporaryDirectory() as nowhere, open_dict(self.config):
                self.config.hydra.sweep.dir = nowhere
                return super().sweep(arguments)
        folder = Path(self.config.hydra.sweep.dir)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchError(unwritable(folder, error)) from error
        return super().sweep(arguments)

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The cells, in batches.

        Raises:
            LaunchError: for an interval, whose values nobody has listed.
        """
        for override in overrides:
            refuse_interval(override)
        return BasicSweeper.split_arguments(overrides, max_batch_size)

    def get_job_batch(self) -> Sequence[Sequence[str]]:
        """The next cells, each with the settings that come along with its choices."""
        if self.batch_index == 0 and self.overrides is not None:
            for choice in unmatched([cell for batch in self.overrides for cell in batch], self.along):
                print(f"note: hydra.sweeper.along: no cell of the grid is given {choice}", flush=True)
        return [made for cell in super().get_job_batch() for made in with_along(cell, self.along)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher, which composes every cell and names the bad ones at the end."""
