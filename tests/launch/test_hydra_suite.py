"""Hydra's own tests of launchers and sweepers, run on ours; what cannot pass is named, with the reason.

The launchers launch this package's cells and nothing else, so a job of Hydra's example applications is
refused as a cell that does not compose. The search takes no grid, and no example that is not judged.
"""

import functools
from collections.abc import Callable, Sequence

import pytest
from cli import ROOT
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)
from hydra.version import VersionBase
from omegaconf import OmegaConf

from mirrorpo.launch.errors import CellsFailed, LaunchError

# The suite's applications are of the time before version_base.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Future Hydra versions:UserWarning", "ignore:\nThe version_base"
)

# They look at what the job of an example application returned.
LAUNCHES_CELLS_ONLY = (
    "test_sweep_1_job",
    "test_sweep_2_jobs",
    "test_sweep_1_job_strict",
    "test_sweep_2_optimizers",
    "test_sweep_over_unspecified_mandatory_default",
    "test_sweep_and_override",
    "test_sweep_with_custom_resolver",
)


def _copy(test: Callable[..., None]) -> Callable[..., None]:
    # A mark on Hydra's own function would hold for every suite that has it.
    @functools.wraps(test)
    def inherited(*args: object, **kwargs: object) -> None:
        test(*args, **kwargs)

    return inherited


def by_design(names: Sequence[str], error: type[Exception]) -> Callable[[type], type]:
    """These tests of a suite raise that; should one pass, it is to be taken off the list."""

    def mark(suite: type) -> type:
        for name in names:
            setattr(suite, name, pytest.mark.xfail(strict=True, raises=error)(_copy(getattr(suite, name))))
        return suite

    return mark


@pytest.fixture(autouse=True)
def ours(hydra_restore_singletons: object) -> None:
    """Their settings are files of conf/, which Hydra's example applications do not have; and no version_base
    that a test before has set.
    """
    Singleton._instances.pop(VersionBase, None)  # type: ignore[attr-defined]
    for kind in ("launcher", "sweeper"):
        for file in (ROOT / "conf" / "hydra" / kind).glob("*.yaml"):
            ConfigStore.instance().store(
                group=f"hydra/{kind}", name=file.stem, node=OmegaConf.load(file), provider="mirrorpo"
            )


@pytest.mark.parametrize("launcher_name, overrides", [("local", []), ("slurm", [])])
@by_design(LAUNCHES_CELLS_ONLY, CellsFailed)
class TestLaunchers(LauncherTestSuite):
    pass


@pytest.mark.parametrize("launcher_name, overrides", [("basic", ["hydra/sweeper=grid"])])
class TestGrid(LauncherTestSuite):
    pass


@pytest.mark.parametrize(
    "launcher_name, overrides", [("basic", ["hydra/sweeper=grid", "hydra.sweeper.max_batch_size=2"])]
)
class TestGridInBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.parametrize("launcher_name, overrides", [("basic", ["hydra/sweeper=es"])])
@by_design(LAUNCHES_CELLS_ONLY, LaunchError)
class TestSearch(LauncherTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "task_launcher_cfg, extra_flags",
    [({"hydra": {"sweeper": {"_target_": "hydra_plugins.mirrorpo.GridSweeper"}}}, ["-m"])],
)
class TestGridInProcesses(IntegrationTestSuite):
    pass
