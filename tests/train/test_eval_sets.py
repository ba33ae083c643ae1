"""Several evaluation sets in a run: their questions, files and records, and all of it from end to end."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli import SMALL, cell_here, folder, manifest, rows, run_script, succeeded, train

from mirrorpo.core.batch import Prompt
from mirrorpo.launch.same_inputs import SameInputs
from mirrorpo.run.errors import RunError
from mirrorpo.run.folder import RunFolder
from mirrorpo.run.inputs import DATASET
from mirrorpo.run.records import records
from mirrorpo.train.build import build_components, notes
from mirrorpo.train.eval_records import run_inputs
from mirrorpo.train.inputs import dataset_inputs
from mirrorpo.train.questions import few_questions_notes, load_questions, load_set

SMALLER = "dataset.train_size=6", "dataset.validation_size=4", "dataset.test_size=4"
SETS = (
    "test:{dataset:arithmetic,dataset.test_size:5,eval_split:test,eval_questions:9}",
    "longer:{dataset:arithmetic,dataset.min_steps:4,dataset.max_steps:4,dataset.validation_size:5,eval_questions:3}",
)
THREE = "eval_datasets=[{" + "},{".join(SETS) + "}]"


def test_each_set_has_its_questions_and_says_where_there_are_fewer() -> None:
    components = build_components(cell_here(*SMALLER, "eval_questions=4", THREE).config)
    questions = load_questions(components)
    assert {name: len(of_set.evaluation) for name, of_set in questions.sets.items()} == {
        "test": 5,
        "longer": 3,
    }
    assert few_questions_notes(components.config, questions) == [
        "eval_sets.test.eval_questions=9: test has 5, and these are evaluated"
    ]
    # Every one of them is of four calculations, and none is the run's own.
    own = {prompt.question for prompt in (*questions.train, *questions.evaluation)}
    assert all(prompt.question not in own for prompt in questions.sets["longer"].evaluation)


def test_a_set_of_which_nothing_can_be_judged_is_refused_by_its_name() -> None:
    components = build_components(cell_here(*SMALLER, THREE).config)
    eval_set = components.eval_sets["test"]

    class Unreadable:
        system, user = "", "{question}"

        def load(self, split: str) -> list[Prompt]:
            return [Prompt(uid="a", question="1 + 1", gold="nan", demonstration="")]

        def fingerprint(self, split: str) -> str:
            return split

    with pytest.raises(ValueError, match=r"eval_sets\.test: none of 1 questions of test .*gold"):
        load_set(replace(eval_set, dataset=Unreadable()))


def test_what_a_set_is_built_of_is_refused_and_remarked_on_by_its_name() -> None:
    sets = "eval_datasets=[{far:{dataset:arithmetic,reward.thinking:read}}]"
    components = build_components(cell_here(sets).config)
    assert any(note.startswith("eval_sets.far.reward.thinking=read") for note in notes(components))
    config = dict(cell_here(sets).config)
    far = config["eval_sets"]["far"]
    for group, changes in (("dataset", {"max_steps": 0}), ("reward", {"latex_workers": 0})):
        config["eval_sets"] = {"far": {**far, group: {**far[group], **changes}}}
        with pytest.raises(ValueError, match=rf"^eval_sets\.far\.{group}: "):
            build_components(config)


def test_the_content_of_a_set_is_an_input_and_another_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    file = tmp_path / "gsm8k" / "test.jsonl"
    file.write_text(json.dumps({"question": "1 + 1?", "answer": "#### 2"}) + "\n")
    cell = cell_here(
        *SMALLER,
        f"out={tmp_path / 'runs'}",
        "eval_datasets=[{far:{dataset:gsm8k,dataset.root:" + str(tmp_path) + ",eval_split:test}}]",
    )
    components = build_components(cell.config)
    questions = load_questions(components)
    inputs, files = run_inputs(components, questions, "p", {"far": {"prompt": {"hash": "q"}}})
    assert inputs["prompts"] == "p" and inputs["prompts far"] == "q"
    assert dataset_inputs(cell.config, ["far/test"]) == {"dataset far/test": inputs[DATASET + "far/test"]}
    assert files is not None and [entry["file"] for entry in files["far/test"]] == ["gsm8k/test.jsonl"]
    run = RunFolder(cell.folder)
    run.update_manifest(
        state="done", files={}, config=cell.config, config_hash=cell.hash, inputs=inputs, input_files=files
    )
    assert SameInputs()(cell, run) == []
    file.write_text(json.dumps({"question": "1 + 1?", "answer": "#### 3"}) + "\n")
    with pytest.raises(RunError, match="dataset far/test: was "):
        SameInputs()(cell, run)
    # A finished run needs its data no more.
    (tmp_path / "gsm8k").rename(tmp_path / "gone")
    cell.config["eval_sets"]["far"]["dataset"]["root"] = str(tmp_path / "none")
    with pytest.raises(RunError, match="cannot be read"):
        SameInputs()(cell, run)


def test_the_rows_of_sets_are_results_and_stand_in_a_checkpoints_records(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    names = ("eval/step_000001.jsonl", "eval/far/step_000001.jsonl", "eval/far/step_000002.jsonl")
    for name in (*names, "metrics.jsonl", "evaluated/later/step_000001.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    assert run.evaluation(2, "far") == tmp_path / names[2] and run.evaluation(1) == tmp_path / names[0]
    assert [str(path.relative_to(tmp_path)) for path in run.evaluations()] == list(names)
    assert set(run.sizes()) == {*names, "metrics.jsonl"} == set(run.digests())
    assert set(records(run, 1)["files"]) == {*names[:2], "metrics.jsonl"}
    run.update_manifest(state="done", files=run.sizes())
    assert run.finished()
    (tmp_path / names[2]).unlink()
    assert not run.finished()


def evaluate(*arguments: str, cwd: Path) -> Any:
    """The command `mirrorpo evaluate`, in a process of its own."""
    script = cwd / "mirrorpo_evaluate.py"
    script.write_text("import sys\nfrom mirrorpo.launch.evaluate import main\nsys.exit(main())\n")
    return run_script(script, *arguments, cwd=cwd)


@pytest.mark.slow
def test_a_run_with_three_sets_from_end_to_end(tmp_path: Path) -> None:
    cell = (
        *SMALL, THREE.replace("eval_questions:9", "eval_questions:5"), "steps=2", "eval_every=1",
        "eval_samples=4", "eval_sampled_questions=all", "drift_questions=2", "lora@model.lora=r16", "lr=1e-3",
    )  # fmt: skip
    succeeded(train(*cell, f"out={tmp_path / 'a'}", cwd=tmp_path))
    run = folder(tmp_path / "a")
    last = rows(run / "metrics.jsonl")[-1]
    for prefix, count in (("eval", 12), ("eval/test", 5), ("eval/longer", 3)):
        assert last[f"{prefix}/questions"] == last[f"{prefix}/sampled_questions"] == count
        of_rows = rows(run / prefix / "step_000002.jsonl")
        assert len(of_rows) == count
        right = sum(row["samples_right"] for row in of_rows) / (4 * count)
        assert last[f"{prefix}/avg@4"] == last[f"{prefix}/pass@1"] == pytest.approx(right)
        majority = sum(row["majority_right"] for row in of_rows) / count
        assert last[f"{prefix}/maj@4"] == pytest.approx(majority)
        assert {f"{prefix}/pass@{k}" for k in (1, 2, 4)} <= last.keys()
    entry = manifest(run)
    assert {name: of_set["questions"] for name, of_set in entry["eval_sets"].items()} == {
        "test": 5,
        "longer": 3,
    }
    assert "dataset test/test" in entry["inputs"] and "eval/longer/step_000000.jsonl" in entry["files"]

    # It goes on, as if it had been the longer run: what the shorter one evaluated stays.
    succeeded(train(*cell, "steps=3", "extend=true", f"out={tmp_path / 'a'}", cwd=tmp_path))
    (longer,) = (path.parent for path in (tmp_path / "a").rglob("manifest.json") if path.parent != run)
    for name in ("test/step_000000", "test/step_000002", "test/step_000003", "longer/step_000003"):
        assert (longer / "eval" / f"{name}.jsonl").exists(), name

    # Its checkpoints are evaluated later to the same rows, and the run stays as it was.
    again = "eval_datasets=[{" + SETS[0].replace("test:", "again:", 1).replace(":9", ":5") + "}]"
    settings = (again, "eval_samples=4", "eval_sampled_questions=all", "eval_max_new_tokens=60", "threads=1")
    before = entry["sha256"]
    for done in (False, True):
        result = evaluate(str(run), *settings, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert ("done already" in result.stdout) == done
    for step in (0, 1, 2):
        name = f"step_{step:06d}.jsonl"
        assert (run / "evaluated/again" / name).read_bytes() == (run / "eval/test" / name).read_bytes(), step
    assert RunFolder(run).digests() == before
    assert rows(run / "evaluated/again/metrics.jsonl")[-1]["eval/again/avg@4"] == last["eval/test/avg@4"]

    # And so is its policy, an adapter, by a run of no steps.
    single = (
        *SMALL,
        "steps=0",
        "eval_split=test",
        "dataset.test_size=5",
        "eval_questions=5",
        "drift_questions=0",
    )
    succeeded(train(*single, f"model.path='{run}'", f"out={tmp_path / 'b'}", cwd=tmp_path))
    other = folder(tmp_path / "b")
    assert manifest(other)["model_run"]["folder"] == str(run)
    names = ("uid", "right", "completion")
    ours, theirs = (
        [[row[name] for name in names] for row in rows(path)]
        for path in (other / "eval/step_000000.jsonl", run / "eval/test/step_000002.jsonl")
    )
    assert ours == theirs
