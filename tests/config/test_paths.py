"""Where conf/ and sweeps/ are, and how a command is named."""

from pathlib import Path

import pytest
from cli import ROOT

from mirrorpo.config import paths


def test_a_clone_reads_its_own_folders() -> None:
    assert paths.tree() == paths.code() == ROOT
    assert paths.conf() == ROOT / "conf" and paths.sweeps() == ROOT / "sweeps"


def test_an_installed_package_reads_the_folders_beside_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "mirrorpo"
    monkeypatch.setattr(paths, "PACKAGE", package)
    assert paths.tree() is None and paths.code() == package and paths.conf() == package / "conf"
    # A folder that is called src, of something else.
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "src" / "mirrorpo")
    assert paths.tree() is None


def test_a_usage_line_names_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mirrorpo status", "--help"])
    assert paths.command("mirrorpo.status") == "mirrorpo status"
    monkeypatch.setattr("sys.argv", ["/somewhere/mirrorpo/status.py"])
    assert paths.command("mirrorpo.status") == "python -m mirrorpo.status"
