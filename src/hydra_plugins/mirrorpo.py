"""What Hydra finds by scanning, and only that: it takes no plug-in from another package. The code is in
`mirrorpo.launch`.
"""

from mirrorpo.launch import evolution_sweeper, grid, local, slurm, sweeps_path


class LocalLauncher(local.LocalLauncher):
    """`hydra/launcher=local`."""


class SlurmLauncher(slurm.SlurmLauncher):
    """`hydra/launcher=slurm`."""


class GridSweeper(grid.GridSweeper):
    """`hydra/sweeper=grid`."""


class EvolutionSweeper(evolution_sweeper.EvolutionSweeper):
    """`hydra/sweeper=es`."""


class CmaSweeper(evolution_sweeper.CmaSweeper):
    """`hydra/sweeper=cma`."""


class SweepsSearchPath(sweeps_path.SweepsSearchPath):
    """The path to `sweeps/`."""
