"""The package as it is installed: a wheel, in an environment without the repository, in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli import ROOT, SMALL, manifest, succeeded

from mirrorpo import __version__, cli
from mirrorpo.launch.job import COMMANDS
from mirrorpo.run.folder import run_folders
from mirrorpo.run.provenance import SNAPSHOT, code_hash

pytestmark = pytest.mark.slow

COMMIT = "c0ffee" * 6 + "beef"
# A user's own weighting, next to the folder that --config-dir names.
PART = """
from dataclasses import dataclass

from mirrorpo.weighting.uniform import Uniform


@dataclass(frozen=True)
class Same(Uniform):
    pass
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment's `bin` folder: what was built from a copy of the tree, beside the tests' packages."""
    folder = tmp_path_factory.mktemp("install")
    kept = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "sweeps", "analysis"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=kept)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "train.py"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index"]
    (folder / "source" / SNAPSHOT).write_text(json.dumps({"commit": COMMIT, "dirty": False}))
    build = ["wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run([*pip, *build, *options], check=True)
    # From here on there is no tree that could be read by accident.
    shutil.rmtree(folder / "source")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    torch = find_spec("torch")
    assert torch is not None and torch.origin is not None
    # A folder that a .pth file names has its own .pth files left unread, so that no editable install follows.
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(f"{Path(torch.origin).parents[1]}\n")
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", *options, str(wheel)], check=True)
    return python.parent


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    return tmp_path


def given(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(installed / "mirrorpo"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_a_wheel_holds_the_folders_beside_the_package_and_every_file_of_them(installed: Path) -> None:
    (site,) = (installed.parent / "lib").glob("python*/site-packages")
    for name, place in (("conf", "mirrorpo/conf"), ("sweeps", "mirrorpo/sweeps"), ("analysis", "analysis")):
        for path in (path for ending in ("yaml", "py", "js") for path in (ROOT / name).rglob(f"*.{ending}")):
            copy = site / place / path.relative_to(ROOT / name)
            assert copy.exists() and copy.read_bytes() == path.read_bytes(), copy


def test_the_package_names_its_version_and_its_commands(installed: Path, empty: Path) -> None:
    succeeded(given(installed, "--version"), [__version__])
    succeeded(given(installed, "train", "--version"), [__version__])
    succeeded(given(installed), cli.COMMANDS.keys())
    wrong = given(installed, "tarin")
    assert wrong.returncode == 2 and "'tarin'" in wrong.stderr and "train" in wrong.stderr
    for name in ("status", "report", "span-value"):
        succeeded(given(installed, name, "--help"), ["usage: "])


def test_an_empty_folder_is_enough_for_a_sweep_and_its_report(installed: Path, empty: Path) -> None:
    (empty / "own" / "weighting").mkdir(parents=True)
    (empty / "own" / "weighting" / "same.yaml").write_text("# Mine.\n_target_: part.Same\nscope: credit\n")
    (empty / "part.py").write_text(PART)
    settings = ["-m", "weighting=uniform,same", *SMALL, "steps=2", "progress=false"]
    succeeded(given(installed, "train", "--config-dir", "own", *settings), ["2 cells"])
    runs = run_folders(empty / "outputs" / "single")
    assert [manifest(run)["state"] for run in runs] == ["done", "done"]
    # A weighting of the user's that does the same gives the same numbers, from the same code.
    assert len({(run / "metrics.jsonl").read_text() for run in runs}) == 1
    written = manifest(runs[0])
    assert written["versions"]["mirrorpo"] == __version__ and written["commit"] == COMMIT
    assert written["code"] == code_hash(ROOT)

    # Half of it is lost: the command that made it is given again, and does that half.
    shutil.rmtree(runs[0] / "checkpoints")
    (runs[0] / "metrics.jsonl").unlink()
    assert given(installed, "status", "outputs/single").returncode == 1
    succeeded(given(installed, "status", "outputs/single", "retry"), ["not asked for"])
    succeeded(given(installed, "status", "outputs/single"), ["2 done"])
    succeeded(given(installed, "export", "single"), ["2 runs"])
    succeeded(given(installed, "report", "single"), ["report.html"])
    assert (empty / "outputs" / "single" / "report" / "report.html").stat().st_size > 10_000


def test_an_empty_folder_is_enough_for_what_needs_no_run(installed: Path, empty: Path) -> None:
    planned = given(installed, "train", "sweep=tiny_divergence", "hydra.launcher.dry_run=true")
    succeeded(planned, ["9 of 9 cells would run"])
    assert not list(empty.iterdir())
    succeeded(given(installed, "estimator-table"), ["kl_exact", "probl2_corrected"])
    succeeded(given(installed, "mirror-maps", "probl2", "--out", "maps.json"), ["maps.json"])
    assert "probl2" in (empty / "maps.json").read_text()


def test_jobs_of_a_cluster_run_the_installed_code(
    installed: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = empty / "programs"
    programs.mkdir()
    said = {
        "sbatch": "Submitted batch job 12",
        "scontrol": "MaxArraySize = 1001",
        "squeue": "",
        "sacct": "",
        "srun": "",
    }
    for name, text in said.items():
        (programs / name).write_text(f"#!/bin/sh\necho '{text}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    succeeded(
        given(installed, "train", "-m", "hydra/launcher=slurm", "seed=5,6"), ["submitted 2 cells as job 12"]
    )
    (submitted,) = empty.rglob(COMMANDS)
    commands = json.loads(submitted.read_text())
    assert [command[1:4] for command in commands] == [["-m", "mirrorpo", "train"]] * 2
    assert ["seed=5" in command for command in commands] == [True, False]
