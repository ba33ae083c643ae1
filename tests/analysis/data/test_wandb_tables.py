"""W&B's exports as people have them: a runs table, charts, histories, runs of other trainers."""

import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from planted import manifest as planted_manifest
from planted import metrics as planted_metrics
from planted import write_run, write_sweep

from analysis.__main__ import main
from analysis.data.column_map import guessed, read_map
from analysis.data.export import Export, load
from analysis.report.accuracy_tables import accuracy
from analysis.study.guards import Refused
from analysis.study.study import study
from mirrorpo.config.identity import flat

ACCURACY = "eval/greedy_accuracy"
ARMS, SEEDS = ("kl", "none"), (0, 1, 2)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("outputs") / "sweep", ARMS, SEEDS)


def runs(sweep: Path) -> Iterator[tuple[str, dict[str, Any], list[dict[str, float]]]]:
    """What W&B shows of each run: its name, its settings, its history."""
    for path in sorted(sweep.rglob("manifest.json")):
        made = json.loads(path.read_text())
        label = ",".join(f"{axis}={choice}" for axis, choice in made["choices"].items())
        rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        yield f"{label}/seed={made['config']['seed']}", made["config"], rows


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A CSV as a browser saves it, every field in quotes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(
            stream, list(dict.fromkeys(key for row in rows for key in row)), quoting=csv.QUOTE_ALL
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def runs_table(sweep: Path, path: Path) -> Path:
    """W&B's page: Export CSV of the table of runs."""
    out = []
    for name, config, rows in runs(sweep):
        last = {key: value for row in rows for key, value in row.items() if key != "step"}
        settings = {
            key: json.dumps(value) if isinstance(value, list | bool) else value
            for key, value in flat(config).items()
        }
        page = {
            "Name": name,
            "State": "finished",
            "Notes": "-",
            "User": "me",
            "Tags": "",
            "Runtime": 61,
            "Sweep": "",
        }
        out.append(page | settings | last)
    return write_csv(path, out)


def chart(sweep: Path, path: Path, metric: str = ACCURACY) -> Path:
    """W&B's page: a line plot as CSV."""
    by_step: dict[int, dict[str, object]] = {}
    for name, _, rows in runs(sweep):
        for row in rows:
            if metric in row:
                columns = {f"{name} - {metric}{bound}": row[metric] for bound in ("", "__MIN", "__MAX")}
                by_step.setdefault(int(row["step"]), {"Step": row["step"]}).update(columns)
    return write_csv(path, [by_step[step] for step in sorted(by_step)])


def histories(sweep: Path, folder: Path, suffix: str) -> Path:
    """A data frame of each run's history, in a file called after it."""
    folder.mkdir(parents=True)
    for name, _, rows in runs(sweep):
        frame = pd.DataFrame(rows).rename(columns={"step": "_step"}).assign(_timestamp=1.7e9, _runtime=3.0)
        file = folder / (name.replace("/", "_") + suffix)
        frame.to_csv(file) if suffix == ".csv" else frame.to_parquet(file)
    return folder


def table_of(export: Export) -> list[list[str]]:
    """Accuracy by arm: what stands in the cells."""
    made = study(export, allow=["provenance"])
    return [[str(cell) for cell in row] for row in accuracy(made).rows]


def curves(export: Export) -> list[tuple[str, int, int, float]]:
    by_run = {row["run"]: row for row in export.records}
    frame = export.metric(ACCURACY)
    return sorted(
        (by_run[run]["divergence"], by_run[run]["seed"], int(step), value)
        for run, step, value in frame.itertuples(index=False)
    )


# One table, wherever its runs come from


def test_tables_of_each_form_give_the_table_of_the_run_folders(sweep: Path, tmp_path: Path) -> None:
    folders = load(str(sweep), questions=False)
    expected = table_of(folders)
    assert [row[0] for row in expected] == ["kl", "none"] and "better" not in expected[0]
    assert table_of(load(str(runs_table(sweep, tmp_path / "runs.csv")))) == expected
    for made in (
        chart(sweep, tmp_path / "chart.csv"),
        histories(sweep, tmp_path / "csv", ".csv"),
        histories(sweep, tmp_path / "parquet", ".parquet"),
    ):
        export = load(str(made))
        assert table_of(export) == expected, made
        assert curves(export) == curves(folders)


def test_a_folder_of_a_runs_table_charts_and_histories_is_one_set_of_runs(
    sweep: Path, tmp_path: Path
) -> None:
    runs_table(sweep, tmp_path / "all" / "wandb_export.csv")
    chart(sweep, tmp_path / "all" / "chart.csv")
    chart(sweep, tmp_path / "all" / "drift.csv", "drift/kl")
    histories(sweep, tmp_path / "all" / "histories", ".csv")
    export = load(str(tmp_path / "all"))
    assert len(export.records) == len(ARMS) * len(SEEDS)
    assert {row["state"] for row in export.records} == {"done"}
    assert {row["steps"] for row in export.records} == {4}
    assert curves(export) == curves(load(str(sweep), questions=False))
    assert json.loads(export.records[0]["config"])["divergence"]["beta"] == 0.04
    assert "drift/kl" in export.names and "entropy/mean" in export.names


def test_a_data_frame_of_summaries_settings_and_names_is_a_runs_table(sweep: Path, tmp_path: Path) -> None:
    rows = list(runs(sweep))
    frame = pd.DataFrame(
        {
            "summary": [
                {**of_run[-1], "_step": 4, "x": float("nan"), "_wandb": {"runtime": 3}} for *_, of_run in rows
            ],
            "config": [config for _, config, _ in rows],
            "name": [name for name, *_ in rows],
        }
    )
    frame.to_csv(tmp_path / "project.csv")
    export = load(str(tmp_path / "project.csv"))
    assert len(table_of(export)) == 2 and {row["last_step"] for row in export.records} == {4}
    # States are not in it.
    assert {row["state"] for row in export.records} == {"unknown"}
    with pytest.raises(Refused, match="does not say its commit, prompt_hash, extractor, config_hash, state"):
        study(export)


def test_one_history_with_a_column_of_runs_is_a_history_of_each(sweep: Path, tmp_path: Path) -> None:
    rows = [
        {"run_id": name, "_step": row.pop("step"), **row}
        for name, _, history in runs(sweep)
        for row in history
    ]
    export = load(str(write_csv(tmp_path / "all.csv", rows)))
    assert curves(export) == curves(load(str(sweep), questions=False))


def test_wandbs_artifact_of_a_history_has_its_run_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "run-a1b2c3-history:v0"
    folder.mkdir(parents=True)
    pd.DataFrame({"_step": [0, 1], "loss": [0.5, 0.25]}).to_parquet(folder / "0000.parquet")
    (row,) = load(str(tmp_path)).records
    assert (row["run"], row["rows"], row["came_from"]) == ("a1b2c3", 2, "wandb table")


# Other trainers' runs


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder in which the real client logs without a server."""
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield tmp_path
    wandb.teardown()


def test_another_trainers_offline_files_give_the_same_table(sweep: Path, offline: Path) -> None:
    # As transformers' callback logs a GRPOTrainer: W&B's steps are calls, training and evaluation apart, and
    # the settings come after the run has begun.
    for name, config, rows in runs(sweep):
        settings = {
            "num_generations": 4,
            "max_completion_length": 40,
            "loss_type": "dr_grpo",
            "kl": "divergence=kl" in name,
            "seed": config["seed"],
            "output_dir": f"/tmp/{name}",
        }
        run = wandb.init(project="trl", reinit="finish_previous", settings=wandb.Settings(console="off"))
        run.config.update(settings)
        for row in rows:
            step = {"train/global_step": row["step"]}
            run.log({"train/reward": row.get("reward/mean", 0.0), **step})
            if ACCURACY in row:
                run.log({"eval/rewards/accuracy_reward/mean": row[ACCURACY], **step})
        run.finish()
    arms = {"divergence": "kl"}
    deadline = time.monotonic() + 20
    while len((export := load(str(offline), columns=arms)).records) < 6 or export.metrics.num_rows < 30:
        # wandb-core writes a file's end after finish() has returned.
        assert time.monotonic() < deadline
        time.sleep(0.1)
    expected = table_of(load(str(sweep), questions=False))
    made = study(export, allow=["provenance"], baseline="kl=True")
    rows = [[str(cell) for cell in row] for row in accuracy(made).rows]
    assert [row[0] for row in rows] == ["kl=True", "kl=False"]
    assert [row[1:] for row in rows] == [row[1:] for row in expected]
    assert (
        "TRL" in export.notes[0] and f"{ACCURACY} from eval/rewards/accuracy_reward/mean" in export.notes[0]
    )
    assert "step from train/global_step" in export.notes[0]
    assert any("Student's t" in note for note in made.notes)


def test_what_is_guessed_of_each_trainer() -> None:
    verl = guessed(
        ["algorithm.adv_estimator", "actor_rollout_ref.actor.kl_loss_type", "data.seed"],
        ["val-core/openai/gsm8k/acc/mean@1", "training/global_step", "actor/kl_loss"],
        {},
    )
    assert (verl.trainer, verl.step, verl.seed) == ("verl", "training/global_step", "data.seed")
    assert verl.metrics == {ACCURACY: "val-core/openai/gsm8k/acc/mean@1"}
    settings = {
        "algorithm.adv_estimator": "grpo",
        "data.seed": 3,
        "actor_rollout_ref.actor.use_kl_loss": True,
    }
    assert verl.choices(settings, "") == {
        "algo": "grpo",
        "divergence": "actor_rollout_ref.actor.use_kl_loss=True",
    }
    assert verl.seed_of(settings, "") == 3
    nobody = guessed(["lr"], ["loss"], {"algo": "=mine", "name": r"(?P<divergence>\w+)-s(?P<seed>\d+)"})
    assert nobody.trainer == "" and nobody.choices({}, "probl2-s7") == {
        "algo": "mine",
        "divergence": "probl2",
    }
    assert nobody.seed_of({}, "probl2-s7") == 7


def test_a_map_says_what_the_columns_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    rows = [
        {
            "Name": f"{arm}-{seed}",
            "State": "finished",
            "beta": beta,
            "seed": seed,
            "acc": 0.5 + beta + seed / 100,
            "it": 9,
        }
        for arm, beta in (("a", 0.0), ("b", 0.1))
        for seed in (0, 1)
    ]
    source = write_csv(tmp_path / "mine.csv", rows)
    (tmp_path / "map.yaml").write_text(f"divergence: beta\nstep: it\nmetrics: {{{ACCURACY}: acc}}\n")
    monkeypatch.setattr(
        "sys.argv",
        ["x", "compare", str(source), "--map", str(tmp_path / "map.yaml"), "--allow", "provenance"],
    )
    main()
    said = capsys.readouterr()
    assert "beta=0" in said.out and "beta=0.1" in said.out
    assert "divergence from beta" in said.err and "4 of them have one row" in said.err


# Refusals


def refused(path: Path, columns: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(ValueError) as error:
        load(str(path), columns=columns)
    return str(error.value)


def test_what_cannot_be_read_is_refused_with_what_can(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "there is no file of them. What is read: run folders" in refused(tmp_path / "empty")
    assert "none of them. What is read" in refused(write_csv(tmp_path / "other.csv", [{"a": 1, "b": 2}]))
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00a")
    assert "cannot be read as a table" in refused(tmp_path / "bytes.csv")


def test_a_chart_of_means_of_times_or_of_two_runs_of_one_name_is_refused(tmp_path: Path) -> None:
    grouped = {"Step": 0, "a - x": 0.5, "a - x__MIN": 0.4, "a - x__MAX": 0.6}
    assert "means of several" in refused(write_csv(tmp_path / "grouped.csv", [grouped]))
    timed = {"Relative Time (Process)": 0, "a - x": 0.5}
    assert "with Step" in refused(write_csv(tmp_path / "timed.csv", [timed]))
    (tmp_path / "twice.csv").write_text('"Step","a - x","a - x"\n0,1,2\n')
    assert "name them apart" in refused(tmp_path / "twice.csv")
    two = [{"Name": "a", "State": "finished", "seed": seed} for seed in (0, 1)]
    two += [{"Name": "b", "State": "finished", "seed": 0}]
    assert "name" in refused(write_csv(tmp_path / "named.csv", two))


def test_an_unfinished_run_of_a_table_is_refused_as_unfinished(sweep: Path, tmp_path: Path) -> None:
    path = runs_table(sweep, tmp_path / "runs.csv")
    path.write_text(path.read_text().replace("finished", "crashed", 1))
    with pytest.raises(Refused, match="unfinished"):
        study(load(str(path)), allow=["provenance"])


def test_a_map_with_a_mistake_is_refused_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    for text, error in (
        ("arms: x", "no such key"),
        ("- x", "no keys with columns"),
        ("metrics: x", "metrics is a map"),
        ("name: '(?P<who>x)'", "name has groups"),
        ("name: '('", "no pattern"),
        ("a: [", "cannot be read as YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=error):
            read_map(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_map(tmp_path / "nowhere.yaml")
    assert read_map(None) == {}


def test_a_run_that_a_table_knows_less_of_is_no_reason_to_refuse_run_folders(tmp_path: Path) -> None:
    # A CSV beside run folders, as of notes of one's own, is not looked at.
    write_run(tmp_path / "s" / "a" / "seed=0", planted_manifest(0), planted_metrics(4, [0.5, 0.5, 0.5]), {})
    write_csv(tmp_path / "s" / "notes.csv", [{"a": 1}])
    assert [row["came_from"] for row in load(str(tmp_path / "s")).records] == ["folder"]
