"""Hydra launchers for cells, and the path to `sweeps/`."""
