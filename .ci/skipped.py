"""A plug-in of pytest: the names of what was skipped, one a line, so that it can be run elsewhere."""

import os
from pathlib import Path

import pytest

NAMES = Path(os.environ["SKIPPED_TO"])


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin with an empty list; the workers of xdist report to their controller."""
    if not hasattr(session.config, "workerinput"):
        NAMES.write_text("")


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and "PYTEST_XDIST_WORKER" not in os.environ:
        with NAMES.open("a") as file:
            file.write(f"{report.nodeid}\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test."""
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that is skipped as one."""
    _note(report)
