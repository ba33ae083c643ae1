"""The product of the command line's choices; a cell that does not compose is the launcher's to report."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, which would refuse a whole grid for one bad cell."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Left to the launcher, which composes every cell and names the bad ones at the end."""
