"""The data page's sets of one's own: a YAML of a few lines each outside the repository, and no Python."""

import csv
import json
from pathlib import Path

import pytest
from cli import ROOT, composed, folder, manifest, rows, succeeded, train
from small_models import write_qwen3
from test_docs import fences

from mirrorpo.config.schema import check, resolved
from mirrorpo.core.batch import Prompt
from mirrorpo.train.build import build_components
from mirrorpo.train.questions import load_questions

LONGEST = 12
NAMES = ("svamp", "arc", "reviews", "gsm8k_hub")
UIDS = {
    "svamp": "svamp/all/",
    "arc": "arc/validation/",
    "reviews": "reviews/all/",
    "gsm8k_hub": "gsm8k/train/",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's YAML files and small files of the shapes of the public sets."""
    home = tmp_path_factory.mktemp("outside")
    for fence in fences(ROOT / "docs/data.md"):
        if fence.language == "yaml" and 'title="conf-of-mine/' in fence.options:
            path = home / fence.options.removeprefix('title="').removesuffix('"')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fence.text)
    write_data(home / "data")
    return home


def write_data(data: Path) -> None:
    for name in ("arc", "gsm8k"):
        (data / name).mkdir(parents=True)
    # In the words of the model that ships.
    pens = [{"Body": f"Ben has {n} pens. Ben buys {n} more.", "Answer": 2.0 * n} for n in range(40)]
    asked = {"Question": "How many pens does Ben have?"}
    (data / "svamp.json").write_text(json.dumps([row | asked for row in pens]))
    for split in ("train", "validation", "test"):
        with (data / "arc" / f"{split}.jsonl").open("w") as file:
            for n in range(8):
                choices = {"text": [f"{n + len(split) + more}" for more in range(4)], "label": list("1234")}
                row = {"question": f"{n} + {len(split)}?", "choices": choices, "answerKey": "1"}
                file.write(json.dumps(row) + "\n")
    with (data / "reviews.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["instruction", "input", "output"])
        for n in range(40):
            word = ("bad", "good")[n % 2]
            writer.writerow(
                [
                    "Is the review positive or negative?",
                    f'"{word}",\nsaid {n}.',
                    ("negative", "positive")[n % 2],
                ]
            )
    for split in ("train", "test"):
        with (data / "gsm8k" / f"{split}.jsonl").open("w") as file:
            for n in range(30):
                row = {"question": f"Twice {n} in {split}?", "answer": f"2 * {n} = {2 * n}\n#### {2 * n}"}
                file.write(json.dumps(row) + "\n")


def settings(name: str, outside: Path) -> list[str]:
    """Of a launch: where the files are, which here is no network's place."""
    hub = [f"dataset.hub={outside / 'data/gsm8k'}", "dataset.hub_config=null"] if name == "gsm8k_hub" else []
    return [f"dataset={name}", f"dataset.root={outside}", *hub]


def test_each_yaml_has_at_most_twelve_lines_and_its_rows_are_questions(outside: Path) -> None:
    first: dict[str, Prompt] = {}
    for name in NAMES:
        text = (outside / f"conf-of-mine/dataset/{name}.yaml").read_text()
        assert len(text.splitlines()) <= 12 and "_target_" not in text
        if name == "gsm8k_hub":
            # The library takes seconds to import; the slow test has it.
            continue
        search = f"hydra.searchpath=['{outside}/conf-of-mine']"
        with composed(*settings(name, outside), "eval_questions=3", search) as (cfg, _):
            check(cfg)
            components = build_components(resolved(cfg))
        questions = load_questions(components)
        assert not questions.left_out and len(questions.train) >= 8 and questions.evaluation
        first[name] = components.dataset.load("train")[0]
    number = int(first["svamp"].question.split()[2])
    assert (
        first["svamp"].question
        == f"Ben has {number} pens. Ben buys {number} more. How many pens does Ben have?"
    )
    assert first["svamp"].gold == str(2 * number)
    assert first["arc"].question.startswith("0 + 5?\nA) ")
    assert f"{first['arc'].gold}) 5" in first["arc"].question
    assert first["reviews"].question == 'Is the review positive or negative?\n"bad",\nsaid 0.'


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_set_of_ones_own_is_trained_and_evaluated_from_its_yaml_alone(
    name: str, outside: Path, tmp_path: Path
) -> None:
    # SVAMP's on the model that ships, the others on a small Qwen3 with a chat template.
    model = () if name == "svamp" else ("model=qwen", f"model.path={write_qwen3(tmp_path / 'model')}")
    short = ("steps=2", "prompts_per_step=2", "group_size=2", f"max_new_tokens={LONGEST}", "eval_questions=2")
    short += ("eval_sampled_questions=1", "eval_samples=2", "threads=1", "tracking=none", "drift_questions=2")
    command = (
        "--config-dir",
        str(outside / "conf-of-mine"),
        *model,
        *(["algo=sft"] if name == "reviews" else []),
        *short,
    )
    command += (*settings(name, outside), f"out={tmp_path}")
    succeeded(train(*command, cwd=tmp_path))
    run = folder(tmp_path)
    entry, metrics = manifest(run), rows(run / "metrics.jsonl")
    assert entry["state"] == "done" and entry["choices"]["dataset"] == name
    assert [row["step"] for row in metrics] == [0, 1, 2] and "eval/greedy_accuracy" in metrics[2]
    answers = rows(run / "eval" / "step_000002.jsonl")
    assert len(answers) == 2 and all(row["uid"].startswith(UIDS[name]) for row in answers)
    assert entry["input_files"]["train"][0]["setting"] in ("dataset.root", "dataset.hub")
    example = entry["prompt"]["example"]
    if name == "reviews":
        # The example is a turn of its own, its answer the assistant's.
        assert "Not bad.<|im_end|>\n<|im_start|>assistant\n" in example and example.count("<|im_start|>") == 5
    if name == "svamp":
        succeeded(train(*command, cwd=tmp_path), ["done"])
        (outside / "data/svamp.json").write_text("[]")
        changed = train(*command, cwd=tmp_path)
        assert changed.returncode == 1 and "dataset train" in changed.stdout + changed.stderr
