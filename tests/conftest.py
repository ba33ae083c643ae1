"""Settings that must hold before torch is imported, and shape checks at run time."""

import os

# Two busy cores and spinning threads do not go together; xdist gives the parallelism.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["MPLBACKEND"] = "Agg"

import pytest
from jaxtyping import install_import_hook

# Every annotated function of the rooms with tensors is checked against its shapes while the tests run.
ROOMS = (
    "core",
    "algo",
    "divergence",
    "weighting",
    "model",
    "rollout",
    "train.loss",
    "train.learner",
    "train.metrics",
)
install_import_hook([f"mirrorpo.{room}" for room in ROOMS], "beartype.beartype")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Torch reads the environment once; a test that changed the count must not slow the others."""
    import torch

    torch.set_num_threads(1)
