"""W&B for real but offline: what its run files hold, and that its failures cost nothing."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cli import SMALL, command, folder
from cli import environment as cli_environment
from wandb_server import serve

from analysis.data.wandb_runs import Segment, read_segment
from mirrorpo.core.protocols import Tracker
from mirrorpo.run.mirror import Mirror
from mirrorpo.run.tracking import NoTracker, WandB, WandBRun


def segments(folder: Path) -> list[Segment]:
    """Every offline run file of a run folder, in the order they were begun."""
    return [read_segment(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]


def wait_for_end(folder: Path) -> None:
    """wandb-core writes the file's end after finish() has returned."""
    deadline = time.monotonic() + 30
    while segments(folder)[-1].exit_code is None and time.monotonic() < deadline:
        time.sleep(0.02)


def wandb(**changes: Any) -> WandB:
    return WandB(**{"project": "tests", "entity": None, "mode": "offline", "init_timeout_s": 20.0, **changes})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no netrc; and what a tracker sets is taken back afterwards."""
    for name in (
        "NETRC",
        "WANDB_BASE_URL",
        "WANDB_API_KEY",
        "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL",
        "WANDB_SILENT",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


def tracked(folder: Path, run_id: str, steps: Mapping[int, Mapping[str, float]], exit_code: int = 0) -> None:
    """A whole run."""
    tracker = wandb().build()
    tracker.start(
        run_id=run_id,
        name=f"name of {run_id}",
        config={"lr": 0.1, "algo": {"low": 0.2, "betas": [0.9, 0.99]}},
        folder=str(folder),
    )
    for step, metrics in steps.items():
        tracker.log(step, metrics)
    tracker.finish(exit_code)
    wait_for_end(folder)


# Offline


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Segment:
    """What is left of a run of three steps."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        tracked(
            folder,
            "0123456789abcdef",
            {step: {"reward/mean": step / 8, "eval/pass@1": 0.5} for step in (0, 1, 2)},
            exit_code=3,
        )
    (segment,) = segments(folder)
    return segment


def test_an_offline_run_has_the_id_and_the_name_it_was_given(offline: Segment) -> None:
    assert (offline.run_id, offline.name) == ("0123456789abcdef", "name of 0123456789abcdef")


def test_an_offline_run_has_the_config(offline: Segment) -> None:
    assert offline.config == {"lr": 0.1, "algo": {"low": 0.2, "betas": [0.9, 0.99]}}


def test_an_offline_run_has_every_step_under_its_number(offline: Segment) -> None:
    assert offline.rows == [{"step": step, "reward/mean": step / 8, "eval/pass@1": 0.5} for step in (0, 1, 2)]


def test_a_mirror_holds_copies_of_the_manifest_and_the_evaluations(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "manifest.json").write_text('{"state": "done"}')
    (tmp_path / "eval" / "step_000002.jsonl").write_text('{"uid": "q"}\n')
    tracked(tmp_path, "kept", {2: {"reward/mean": 0.5}})
    (files,) = tmp_path.glob("wandb/offline-run-*/files")
    assert (files / "provenance.json").read_text() == '{"state": "done"}' and not (
        files / "provenance.json"
    ).is_symlink()
    assert (files / "eval" / "step_000002.jsonl").read_text() == '{"uid": "q"}\n'
    # Nothing that looks for runs may take the copy for one.
    assert [path.parent for path in tmp_path.rglob("manifest.json")] == [tmp_path]


def test_an_offline_run_has_the_exit_code(offline: Segment) -> None:
    assert offline.exit_code == 3


def test_the_first_step_may_be_any(tmp_path: Path) -> None:
    tracked(tmp_path, "late", {17: {"reward/mean": 0.5}})
    assert [row["step"] for row in segments(tmp_path)[0].rows] == [17]


def test_two_runs_in_one_process_do_not_merge(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tracked(tmp_path / name, name, {1: {"reward/mean": float(name == "two")}})
    written = [segments(tmp_path / name) for name in ("one", "two")]
    assert [[segment.run_id for segment in run] for run in written] == [["one"], ["two"]]
    assert [run[0].rows for run in written] == [
        [{"step": 1, "reward/mean": 0}],
        [{"step": 1, "reward/mean": 1}],
    ]


LOGS_AND_WAITS = """
    import sys, time
    from mirrorpo.run.tracking import WandB
    tracker = WandB(project="tests", entity=None, mode="offline", init_timeout_s=20.0).build()
    tracker.start(run_id="resumed", name="n", config={}, folder=sys.argv[1])
    for step in range(5):
        tracker.log(step, {"reward/mean": step / 8})
    print("logged", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    """The segments of a run that was killed soon after step 4, and relaunched from a checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-c", textwrap.dedent(LOGS_AND_WAITS), str(folder)]
    # A child would log through this process's wandb-core, which is not killed with it.
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own) as process:
        assert process.stdout is not None and process.stdout.readline() == "logged\n"
        # Long enough for a flush a second; by default wandb-core keeps records back for 15 s.
        deadline = time.monotonic() + 5
        while sum(len(segment.rows) for segment in segments(folder)) < 5 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        tracked(folder, "resumed", {step: {"reward/mean": step / 8} for step in (3, 4, 5)})
    return segments(folder)


def test_a_killed_run_has_the_steps_before_its_last(killed_and_resumed: list[Segment]) -> None:
    assert killed_and_resumed[0].rows[:4] == [{"step": step, "reward/mean": step / 8} for step in range(4)]


def test_a_killed_run_has_its_last_step(killed_and_resumed: list[Segment]) -> None:
    assert killed_and_resumed[0].rows[-1] == {"step": 4, "reward/mean": 4 / 8}


def test_a_killed_run_has_no_exit_code(killed_and_resumed: list[Segment]) -> None:
    assert killed_and_resumed[0].exit_code is None


def test_a_resumed_run_is_a_second_segment_with_the_same_id(killed_and_resumed: list[Segment]) -> None:
    assert [segment.run_id for segment in killed_and_resumed] == ["resumed", "resumed"]


def test_a_resumed_run_goes_on_where_it_resumed(killed_and_resumed: list[Segment]) -> None:
    assert [row["step"] for row in killed_and_resumed[1].rows] == [3, 4, 5]


@pytest.mark.slow
def test_a_run_that_hands_over_goes_on_under_its_id_and_no_step_is_there_twice_or_missing(
    tmp_path: Path,
) -> None:
    words = command(
        *(word for word in SMALL if word != "tracking=none"),
        "steps=4",
        "checkpoint_every=100",
        "eval_questions=0",
        f"out={tmp_path / 'out'}",
    )
    own = {
        name: value
        for name, value in cli_environment(WANDB_MODE="offline").items()
        if name != "WANDB_SERVICE"
    }
    with subprocess.Popen(words, cwd=tmp_path, env=own, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(
            '"step": 1' in path.read_text() for path in tmp_path.rglob("metrics.jsonl")
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR2)
    assert process.returncode == os.EX_TEMPFAIL
    subprocess.run(words, cwd=tmp_path, env=own, stdout=subprocess.DEVNULL, check=True)
    first, second = segments(folder(tmp_path / "out"))
    assert first.run_id == second.run_id and (first.exit_code, second.exit_code) == (os.EX_TEMPFAIL, 0)
    assert [row["step"] for row in (*first.rows, *second.rows)] == [1, 2, 3, 4]


# Failure


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that nobody hears at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)


@pytest.mark.usefixtures("deaf")
def test_a_dead_server_is_a_warning_and_the_rows_lie_in_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = wandb(mode="online", init_timeout_s=2.0).build()
    assert isinstance(tracker, WandBRun)
    mirror = Mirror(tracker, limit_s=60, catch_up=tracker.catch_up)
    mirror.start(run_id="lost", name="n", config={}, folder=str(tmp_path))
    mirror.log(1, {"reward/mean": 0.5})
    mirror.finish(0)
    wait_for_end(tmp_path)
    (segment,) = segments(tmp_path)
    assert segment.run_id == "lost" and segment.rows == [{"step": 1, "reward/mean": 0.5}]
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "mirrorpo.run.mirror"]
    assert warning.startswith("the tracker is behind: the server let nothing in (CommError: ")
    (here,) = tmp_path.glob("wandb/offline-run-*")
    assert f"later, `wandb sync --include-online {here}` sends the rest; the run goes on" in warning


def test_a_login_of_the_host_alone_lets_the_client_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client keeps the address that it saw first.
    client = importlib.import_module("wandb")
    client.teardown()
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / "home" / ".netrc").write_text(f"machine LocalHost login user password {'k' * 40}\n")
    with serve() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("127.0.0.1", "localhost"))
        tracker = wandb(mode="auto").build()
        tracker.start(run_id="let-in", name="n", config={}, folder=str(tmp_path))
        tracker.log(1, {"reward/mean": 0.5})
        tracker.finish(0)
        client.teardown()
        assert server.runs["let-in"]["state"] == "finished"
        assert [row["reward/mean"] for row in server.runs["let-in"]["history"]] == [0.5]


def test_a_missing_package_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    mirror = Mirror(wandb().build(), limit_s=20)
    mirror.start(run_id="none", name="n", config={}, folder=str(tmp_path))
    mirror.log(1, {})
    mirror.finish(0)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the tracker stopped (ModuleNotFoundError"
    ]


def test_a_run_that_never_started_can_be_logged_to_and_finished(caplog: pytest.LogCaptureFixture) -> None:
    tracker = wandb().build()
    tracker.log(1, {})
    tracker.finish(1)
    assert not caplog.records


# Mode


def mode(setting: Any = "auto") -> str:
    return WandBRun(wandb(mode=setting))._mode()


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No WANDB_MODE, which the tests otherwise set."""
    monkeypatch.delenv("WANDB_MODE")


@pytest.mark.usefixtures("unasked")
def test_auto_is_offline_without_a_key() -> None:
    assert mode() == "offline"


@pytest.mark.usefixtures("unasked")
def test_auto_is_online_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert mode() == "online"


@pytest.mark.usefixtures("unasked")
def test_auto_is_offline_with_an_empty_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert mode() == "offline"


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize(("machine", "expected"), [("api.wandb.ai", "online"), ("github.com", "offline")])
def test_auto_looks_for_a_login_in_netrc(tmp_path: Path, machine: str, expected: str) -> None:
    (tmp_path / "home" / ".netrc").write_text(f"machine {machine} login user password secret\n")
    assert mode() == expected


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WANDB_DISABLED", "true", "disabled"),
        ("WANDB_DISABLED", "false", "online"),
        ("WANDB_MODE", "dryrun", "offline"),
        ("WANDB_MODE", "run", "online"),
    ],
)
def test_auto_knows_wandbs_older_names(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv(name, value)
    assert mode() == expected


@pytest.mark.parametrize("value", ["1", "TRUE", "yes", "on"])
def test_auto_is_disabled_by_either_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_DISABLED", value)
    assert mode() == "disabled"


def test_a_mirror_that_is_disabled_does_not_load_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracked_run = WandBRun(wandb(mode="auto"))
    tracked_run.start(run_id="r", name="n", config={}, folder=str(tmp_path))
    assert tracked_run.run is None and not (tmp_path / "wandb").exists()


@pytest.mark.parametrize("asked", ["online", "offline"])
def test_auto_does_what_the_environment_asks(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("WANDB_MODE", asked)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert mode() == asked


def test_auto_does_not_mirror_when_the_environment_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode() == "disabled"


@pytest.mark.parametrize("setting", ["online", "offline"])
def test_a_mode_that_is_set_is_taken_whatever_the_environment_asks(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline" if setting == "online" else "online")
    assert mode(setting) == setting


# None


def test_no_tracker_does_nothing(tmp_path: Path) -> None:
    tracker = NoTracker().build()
    tracker.start(run_id="none", name="n", config={}, folder=str(tmp_path))
    tracker.log(1, {"reward/mean": 0.5})
    tracker.finish(0)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("spec", [NoTracker(), wandb()], ids=["none", "wandb"])
def test_both_build_trackers(spec: NoTracker | WandB) -> None:
    assert isinstance(spec.build(), Tracker)
