"""Exports: from folders, from W&B with its real client, and that they say the same."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import wandb
from planted import (
    answers,
    evaluated,
    manifest,
    metrics,
    sampled_answers,
    write_evaluated,
    write_run,
    write_sweep,
)
from pyarrow import compute, parquet
from wandb_server import Server, serve

from analysis.__main__ import main
from analysis.data.export import Export, load
from analysis.data.schema import QUESTIONS, RUNS, VERSION, WHERE_FROM
from analysis.study.guards import Refused, unfinished
from analysis.study.study import study
from mirrorpo.run.tracking import WandB

LONG = 620
WRITTEN = ("export.json", "runs.parquet", "metrics.parquet", "questions.parquet")


def test_a_sweep_of_folders_has_a_row_a_run_a_row_a_step_and_a_row_a_question(tmp_path: Path) -> None:
    export = load(str(write_sweep(tmp_path / "sweep")))
    assert (export.runs.num_rows, export.metrics.num_rows, export.questions.num_rows) == (
        4,
        4 * 5,
        4 * 3 * 40,
    )
    assert export.runs.schema.names == RUNS.names and export.questions.schema.names == QUESTIONS.names
    row = export.records[0]
    assert (
        row["divergence"],
        row["seed"],
        row["steps"],
        row["last_step"],
        row["rows"],
        row["rows_expected"],
    ) == ("kl", 0, 4, 4, 5, 5)
    assert (row["extractor"], row["prompt_hash"], row["came_from"], row["state"]) == (
        "math_answer/1",
        "pppppppp",
        "folder",
        "done",
    )
    assert row["commit"].startswith("c0ffee") and row["source"].endswith("divergence=kl/seed=0")


def halve_rewards(folder: Path) -> None:
    table = parquet.read_table(folder / "metrics.parquet")
    column = table.column_names.index("reward/mean")
    halved = compute.divide(table["reward/mean"], 2.0)
    parquet.write_table(table.set_column(column, "reward/mean", halved), folder / "metrics.parquet")


def later_name(folder: Path) -> None:
    about = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**about, "commit": "1" * 40}))


@pytest.mark.parametrize(("edit", "name"), [(halve_rewards, "metrics.parquet"), (later_name, "export.json")])
def test_an_export_that_was_edited_is_no_table_and_is_not_written_again(
    edit: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    load(str(write_sweep(tmp_path / "sweep"))).write(folder)
    export = load(str(folder))
    assert study(export) and not export.edited
    # What was read is written again, and is whole.
    export.write(tmp_path / "again")
    assert not load(str(tmp_path / "again")).edited
    edit(folder)
    edited = load(str(folder))
    with pytest.raises(Refused, match=f"{name} is not what the export wrote"):
        study(edited)
    with pytest.raises(ValueError, match=f"{name} is not what the export wrote"):
        edited.write(tmp_path / "laundered")


def test_an_export_of_an_older_version_says_that_it_has_no_digests(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    load(str(write_sweep(tmp_path / "sweep"))).write(folder)
    about = json.loads((folder / "export.json").read_text())
    del about["sha256"]
    (folder / "export.json").write_text(json.dumps(about))
    export = load(str(folder))
    assert not export.edited and any("export.json has no digests" in note for note in study(export).notes)


def test_runs_of_one_cell_share_a_cell_hash_and_no_others(tmp_path: Path) -> None:
    rows = load(str(write_sweep(tmp_path / "sweep"))).records
    assert len({row["config_hash"] for row in rows}) == 4
    assert (
        len({row["cell_hash"] for row in rows}) == 2
        and len({(row["cell_hash"], row["divergence"]) for row in rows}) == 2
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    export = load(str(write_sweep(tmp_path / "sweep")))
    export.write(tmp_path / "export")
    again = load(str(tmp_path / "export"))
    assert all(
        getattr(again, name).equals(getattr(export, name)) for name in ("runs", "metrics", "questions")
    )
    assert again.about["source"] == str(tmp_path / "sweep") and again.about["rows"]["metrics"] == 20


def test_another_schema_is_refused(tmp_path: Path) -> None:
    load(str(write_sweep(tmp_path / "sweep"))).write(tmp_path / "export")
    about = json.loads((tmp_path / "export" / "export.json").read_text())
    (tmp_path / "export" / "export.json").write_text(json.dumps(about | {"schema": VERSION + 1}))
    with pytest.raises(ValueError, match="export again"):
        load(str(tmp_path / "export"))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        *((name, None, f"an export without {name}; copy all of export.json") for name in WRITTEN),
        ("export.json", "{", "export.json: cannot be read as JSON .*; copy it anew"),
        ("export.json", "[]", "export.json: is not what an export leaves"),
        ("metrics.parquet", "torn", "metrics.parquet: cannot be read as Parquet .*; copy it anew"),
    ],
)
def test_an_export_that_is_not_whole_names_the_file(
    name: str, content: str | None, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    load(str(write_sweep(tmp_path / "sweep"))).write(folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    for what in ("compare", "archive"):
        monkeypatch.setattr(sys, "argv", ["analysis", what, str(folder)])
        with pytest.raises(SystemExit, match=f"error: .*{error}") as ended:
            main()
        assert "\n" not in str(ended.value)


@pytest.mark.parametrize(
    ("what", "option", "place"),
    [
        *((what, "--out", place) for what in ("export", "report") for place in ("file", "file/below")),
        ("overoptimisation", "--out", "file"),
        ("archive", "--to", "file/sweep.tar.gz"),
        ("select", "--write", "file/mine.yaml"),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_named_before_anything_is_read(
    what: str, option: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    given = str(tmp_path / place)
    monkeypatch.setattr(sys, "argv", ["analysis", what, "nowhere", option, given])
    with pytest.raises(SystemExit) as ended:
        main()
    text = f"error: {option} {given}: {tmp_path / 'file'} is a file; name a place below a folder"
    assert ended.value.code == text


def test_what_the_system_refuses_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_sweep(tmp_path / "sweep")
    # Where an export goes when no --out is given.
    (root / "export").touch()
    monkeypatch.setattr(sys, "argv", ["analysis", "export", str(root)])
    with pytest.raises(SystemExit, match=r"^error: .*/sweep/export: File exists; name a place"):
        main()


def test_a_line_that_a_kill_tore_is_no_row_and_a_broken_one_is_a_failed_run_among_the_others(
    tmp_path: Path,
) -> None:
    run = write_run(
        tmp_path / "a" / "seed=0", manifest(0, state="running"), metrics(4, [0.5, 0.5, 0.5])[:3], {}
    )
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward/me')
    export = load(str(tmp_path))
    assert export.records[0]["rows"] == 3 and unfinished(export.records[0]) == "is running"
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n")
    write_run(tmp_path / "b" / "seed=1", manifest(1), metrics(4, [0.5, 0.5, 0.5]), {})
    broken, other = sorted(load(str(tmp_path)).records, key=lambda row: row["seed"])
    assert "metrics.jsonl has a line that is not JSON" in (unfinished(broken) or "") and broken["seed"] == 0
    assert other["state"] == "done" and unfinished(other) is None


def test_a_folder_that_cannot_be_read_is_a_failed_run_and_the_others_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "good" / "seed=0", manifest(0), metrics(4, [0.5, 0.5, 0.5]), {})
    run = write_run(tmp_path / "bad" / "seed=1", manifest(1), metrics(4, [0.5, 0.5, 0.5]), {})
    whole = {name: (run / name).read_bytes() for name in ("manifest.json", "metrics.jsonl")}
    damage = [("manifest.json", text) for text in (b"", b"null", b"[]", b"\xe9", b'{"state": "paused"}')]
    damage += [("metrics.jsonl", text) for text in (b'{"a": 1}\n', b"\xe9\n", b'{"step": "x"}\n', b"[]\n")]
    for name, content in damage:
        (run / name).write_bytes(content)
        good, bad = sorted(load(str(tmp_path)).records, key=lambda row: row["seed"])
        assert (bad["state"], good["state"]) == ("failed", "done"), content
        assert str(run / name) in bad["error"] and str(run / name) in capsys.readouterr().err, content
        (run / name).write_bytes(whole[name])


def test_a_copied_folder_is_a_run_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "seed=0", manifest(0), metrics(4, [0.5, 0.5, 0.5]), {})
    write_run(tmp_path / "b" / "seed=0", manifest(0), metrics(4, [0.5, 0.5, 0.9]), {})
    export = load(str(tmp_path))
    names = [row["run"] for row in export.records]
    assert names[1] == f"{names[0]}#2" and set(
        export.metric("eval/greedy_accuracy").groupby("run").size()
    ) == {3}


def test_metrics_that_only_some_runs_have_are_empty_in_the_others(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "seed=0", manifest(0), [{"step": 0, "x": 1.0}], {})
    write_run(tmp_path / "b" / "seed=1", manifest(1), [{"step": 0, "y": 2.0}], {})
    frame = load(str(tmp_path)).metric("x", "y", "z")
    assert (
        frame["x"].isna().tolist() == [False, True]
        and frame["y"].isna().tolist() == [True, False]
        and frame["z"].isna().all()
    )


def test_where_there_is_nothing_to_read_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for source, error in (
        ("nowhere", "nowhere: neither a folder"),
        ("empty", r"empty: no run in it: .* What is read: run folders"),
    ):
        with pytest.raises(ValueError, match=error):
            load(source)


# W&B: the real client


def mirrored(folder: Path, mode: str) -> None:
    """Log a run folder as the trainer does."""
    made = json.loads((folder / "manifest.json").read_text())
    tracker = WandB(project="tests", entity=None, mode=mode, init_timeout_s=20.0).build()  # type: ignore[arg-type]
    tracker.start(run_id=made["wandb_id"], name=folder.parent.name, config=made["config"], folder=str(folder))
    for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        tracker.log(row["step"], {key: value for key, value in row.items() if key != "step"})
    tracker.finish(0 if made["state"] == "done" else 1)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short runs, one with another set's evaluation, a long one, and one that failed.

    The long one has more rows than W&B's sampled history returns.
    """
    root = tmp_path_factory.mktemp("outputs") / "sweep"
    write_sweep(root, arms=("kl",), seeds=(0, 1))
    rows = [
        {"step": step, "loss/value": 1 / (step + 3), "drift/kl": 1e-300 * step} for step in range(LONG + 1)
    ]
    write_run(
        root / "long" / "seed=2", manifest(2, **{"config.steps": LONG}), rows, {LONG: answers([True, False])}
    )
    write_evaluated(
        root / "sets" / "seed=4",
        manifest(4, {"divergence": "none"}),
        {4: {"": sampled_answers([8, 2, 5], 8), "svamp": sampled_answers([1, 7], 8)}},
    )
    write_run(
        root / "failed" / "seed=3",
        manifest(3, state="failed", error="NotFinite: step 2"),
        metrics(4, [0.5, 0.5, 0.5])[:2],
        {},
    )
    return root


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A client that knows no server and no key but what a test gives it."""
    for name in ("WANDB_API_KEY", "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # The client reads its environment once a process.
    wandb.teardown()
    yield
    wandb.teardown()


def same(local: Export, logged: Export) -> None:
    """All three tables are equal, but for where they came from."""
    kept = [name for name in RUNS.names if name not in WHERE_FROM]
    assert local.runs.select(kept).to_pylist() == logged.runs.select(kept).to_pylist()
    for name in ("metrics", "questions"):
        expected, table = getattr(local, name), getattr(logged, name)
        assert expected.column_names == table.column_names
        assert expected.cast(_plain(expected.schema)).equals(table.cast(_plain(table.schema)))


def _plain(schema: pa.Schema) -> pa.Schema:
    return schema.set(0, pa.field("run", pa.string()))


@pytest.fixture
def server(client: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield running


def test_the_export_of_a_wandb_project_equals_the_export_of_its_run_folders(
    sweep: Path, server: Server
) -> None:
    for path in sorted(sweep.rglob("manifest.json")):
        if "wandb" not in path.parts:
            mirrored(path.parent, "online")
    assert not [request for request in server.requests if request.startswith("ERROR")]
    local, remote = load(str(sweep)), load("local/tests")
    same(local, remote)
    assert {row["came_from"] for row in remote.records} == {
        "wandb"
    } and local.metrics.num_rows == 3 * 5 + LONG + 1 + 2
    assert remote.sets == ["svamp"] and len(remote.answers(of_set="svamp")) == 2

    # What `history()` would have returned of the long run.
    sampled = max((run.history(pandas=False) for run in wandb.Api().runs("local/tests")), key=len)
    assert len(sampled) == 500 < LONG

    filtered = load("local/tests", filters={"config.seed": 1})
    assert [row["seed"] for row in filtered.records] == [1]
    with pytest.raises(ValueError, match=r'no run with \{"config.seed": 7\}'):
        load("local/tests", filters={"config.seed": 7})

    # A history that lost its end, as of a run whose network died, is unfinished though its manifest says
    # done.
    long = next(run for run in server.runs.values() if len(run["history"]) > LONG)
    del long["history"][LONG // 2 :]
    row = next(row for row in load("local/tests").records if row["steps"] == LONG)
    assert row["state"] == "done" and unfinished(row) == f"has rows up to step {LONG // 2 - 1} of {LONG}"


def test_the_export_of_wandbs_offline_files_equals_the_export_of_the_run_folders(
    sweep: Path, client: None
) -> None:
    for path in sorted(sweep.rglob("manifest.json")):
        if "wandb" not in path.parts:
            mirrored(path.parent, "offline")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(
        row["rows"] != row["rows_expected"]
        for row in load(str(sweep), offline=True).records
        if row["state"] == "done"
    ):
        # wandb-core writes a file's end after finish() has returned.
        time.sleep(0.1)
    same(load(str(sweep)), load(str(sweep), offline=True))


def test_a_run_that_something_else_logged_is_exported_with_what_there_is(server: Server) -> None:
    run = wandb.init(project="tests", id="foreign", config={"seed": 5, "steps": 2})
    run.log({"loss": 0.5}, step=1)
    run.finish()
    (row,) = load("local/tests").records
    assert (row["run"], row["seed"], row["steps"], row["state"], row["commit"], row["rows"]) == (
        "foreign",
        5,
        2,
        "done",
        None,
        1,
    )


def test_a_server_that_is_not_there_is_an_error_that_says_where_to_look(
    client: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr("wandb.Api", _raises)
    with pytest.raises(ValueError, match=r"wandb:local/tests: ConnectionError.*WANDB_BASE_URL"):
        load("local/tests")


def _raises(**_: object) -> None:
    raise ConnectionError("refused")


def test_what_was_evaluated_after_a_run_is_a_set_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "a" / "seed=0", manifest(0), metrics(4, [0.5, 0.6, 0.7])[1:], {})
    before = load(str(tmp_path)).records[0]
    for name, by_step in (("svamp", {0: [1, 2], 4: [7, 8]}), ("broken", {4: [1, 2]})):
        folder = run / "evaluated" / name
        folder.mkdir(parents=True)
        rows = {step: sampled_answers(right, 8) for step, right in by_step.items()}
        for step, answered in [*rows.items(), (2, rows[4])]:
            lines = "".join(json.dumps(row) + "\n" for row in answered)
            (folder / f"step_{step:06d}.jsonl").write_text(lines)
        lines = [{"step": step} | evaluated(answered, f"eval/{name}") for step, answered in rows.items()]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        record = {
            "reward_version": "v",
            "prompt": {"hash": "p"},
            "settings": {"eval_samples": 8},
        }
        (folder / "evaluation.json").write_text(json.dumps(record) if name == "svamp" else "{")
    export = load(str(tmp_path))
    # A step without its metrics does not count, a set that cannot be read is named, the run stays as it was.
    answered = export.answers(of_set="svamp")
    assert export.sets == ["svamp"] and sorted(answered["step"]) == [0, 0, 4, 4]
    assert "evaluated/broken is left out" in capsys.readouterr().err
    values = export.metric("eval/svamp/avg@8", "reward/mean").set_index("step")
    assert list(values.index) == [0, 1, 2, 3, 4] and values.loc[4, "eval/svamp/avg@8"] == 15 / 16
    row = export.records[0]
    assert row | {"sets": None} == before
    sets = json.loads(row["sets"])
    assert sets["svamp"]["extractor"] == "v" and len(sets["svamp"]["settings"]) == 16
