"""What a step's re-rolls cost: one pass of a completion for all its cuts, one a cut, or one a roll.

    python benchmarks/reroll.py --completions 32 --cuts 4 --rolls 4 --rounds 5

Completions of the tiny model are cut evenly, and rolled from every cut by the native sampler in three forms,
in turns: `shared`, the cuts of a completion read off one pass of it; `of a cut`, each beginning computed once
for its rolls; `naive`, each beginning computed once for every roll. Prints processor seconds, arithmetic by
count, each as a share of `naive`, and whether all three drew the same tokens.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from hydra import compose, initialize_config_dir

from mirrorpo.config.paths import conf_folder
from mirrorpo.config.schema import register, resolved
from mirrorpo.core.batch import Completion, RolloutRequest
from mirrorpo.core.seeds import derive
from mirrorpo.model.cost import network_cost, sampling
from mirrorpo.train.build import build_components
from mirrorpo.train.loaded import render
