"""The real data sets, where this machine has them."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("MIRRORPO_DATA") or Path(__file__).parents[2] / "shared" / "data")


def needs(file: str) -> pytest.MarkDecorator:
    """Skips a test, and says so, where a file of the data is missing."""
    return pytest.mark.skipif(
        not (DATA / file).is_file(),
        reason=f"NOT TESTED: no {file} in {DATA}; set MIRRORPO_DATA to a folder with real data",
    )
