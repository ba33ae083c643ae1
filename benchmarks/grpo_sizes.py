"""What the benchmarks beside TRL have in common."""

from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"
# How many times TRL's tokens a second are wanted.
BOUNDS = {"tiny": 3.0, "25m": 2.0, "smollm2": None}
# Prompts, completions of each, longest completion.
SIZES = {"tiny": (16, 8, 128), "25m": (4, 8, 96), "smollm2": (4, 8, 128)}
LR = 1e-6
