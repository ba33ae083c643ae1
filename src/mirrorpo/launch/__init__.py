"""From a grid to running cells: launchers, sweepers, SLURM, status."""
