"""GSM8K from files that the tests write, from the real files, and from a copy of the hub's repository."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from real_data import DATA, needs

from mirrorpo.core.batch import Prompt
from mirrorpo.dataset.gsm8k import Gsm8k, final_number

REPOSITORY = Path(__file__).parents[2]
CONF = REPOSITORY / "conf/dataset/gsm8k.yaml"
needs_real_data = needs("gsm8k/train.jsonl")

TRAIN = [
    {"question": f"What is {i} + {i}?", "answer": f"{i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i}"}
    for i in range(300)
]
TEST = [
    {"question": f"What is {i} * {i}?", "answer": f"It is {i * i:,}.\n#### {i * i:,}"} for i in range(90, 110)
]


def written(root: Path, train: Sequence[Any] = TRAIN, test: Sequence[Any] = TEST) -> Path:
    (root / "gsm8k").mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        (root / f"gsm8k/{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    return root


def dataset(root: Path | None, **changes: Any) -> Gsm8k:
    settings: dict[str, Any] = {
        "root": None if root is None else str(root),
        "hub": "openai/gsm8k",
        "hub_config": "main",
        "revision": None,
        "validation_fraction": 0.2,
        "system": "Think.",
        "user": "{question}",
    }
    return Gsm8k(**(settings | changes))


def questions(prompts: Sequence[Prompt]) -> set[str]:
    return {prompt.question for prompt in prompts}


def test_a_prompt_is_the_row_as_it_stands(tmp_path: Path) -> None:
    tenth = dataset(written(tmp_path)).load("test")[10]
    assert tenth == Prompt(
        uid="gsm8k/test/00010",
        question="What is 100 * 100?",
        gold="10,000",
        demonstration="It is 10,000.\n#### 10,000",
    )


def test_train_and_validation_part_the_train_file(tmp_path: Path) -> None:
    data = dataset(written(tmp_path))
    train, validation = data.load("train"), data.load("validation")
    rows = {f"gsm8k/train/{i:05d}": row["question"] for i, row in enumerate(TRAIN)}
    assert {p.uid: p.question for p in [*train, *validation]} == rows
    assert len(train) + len(validation) == len(TRAIN)
    assert [p.uid for p in train] == sorted(p.uid for p in train)
    # 60 are expected of 300 at a fifth, with a standard deviation of 7.
    assert 30 < len(validation) < 90


def test_reordering_and_new_rows_move_no_question(tmp_path: Path) -> None:
    before = questions(dataset(written(tmp_path / "a")).load("validation"))
    new = [{"question": f"Is {i} even?", "answer": "#### 1"} for i in range(50)]
    after = questions(dataset(written(tmp_path / "b", [*new, *reversed(TRAIN)])).load("validation"))
    assert after - {row["question"] for row in new} == before


def test_copies_of_a_question_share_a_side(tmp_path: Path) -> None:
    copies = [row | {"question": row["question"].replace(" ", "\n ")} for row in TRAIN]
    data = dataset(written(tmp_path, [*TRAIN, *copies]))
    train, validation = (
        {" ".join(p.question.split()) for p in prompts}
        for prompts in (data.load("train"), data.load("validation"))
    )
    assert validation
    assert not train & validation


def test_train_and_validation_never_touch_the_test_file(tmp_path: Path) -> None:
    data = dataset(written(tmp_path))
    (tmp_path / "gsm8k/test.jsonl").unlink()
    assert len(data.load("train")) + len(data.load("validation")) == len(TRAIN)
    assert data.fingerprint("train") != data.fingerprint("validation")
    with pytest.raises(ValueError, match=r"test\.jsonl.* set MIRRORPO_DATA"):
        data.load("test")


def test_test_never_touches_the_train_file(tmp_path: Path) -> None:
    data = dataset(written(tmp_path))
    (tmp_path / "gsm8k/train.jsonl").unlink()
    assert len(data.load("test")) == len(TEST)
    with pytest.raises(ValueError, match=r"train\.jsonl.* set MIRRORPO_DATA"):
        data.load("validation")


def test_a_given_root_that_lacks_the_file_is_an_error_and_not_a_trip_to_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*gsm8k/train\.jsonl"):
        dataset(tmp_path).load("train")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"question": "Q?"}, "lacks the key 'answer'.*add or rename"),
        ({"answer": "#### 1"}, "lacks the key 'question'.*add or rename"),
        ({"question": " \n", "answer": "#### 1"}, "the question is .*write a text that is not empty"),
        ({"question": 7, "answer": "#### 1"}, "the question is 7; write a text"),
        ({"question": "Q?", "answer": ""}, "the answer is ''; write a text"),
        (
            {"question": "Q?", "answer": "It is 18."},
            "the answer ends in 'It is 18.'; end it in a line like '#### 1,000'",
        ),
        ({"question": "Q?", "answer": "#### eighteen"}, "end it in a line like"),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_fix(tmp_path: Path, row: dict[str, Any], fault: str) -> None:
    data = dataset(written(tmp_path, [*TRAIN[:4], row, *TRAIN[4:]]))
    for split in ("train", "validation"):
        with pytest.raises(ValueError, match=fault) as error:
            data.load(split)
        assert f"{tmp_path}/gsm8k/train.jsonl, line 5" in str(error.value)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path) / "gsm8k/train.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train\.jsonl, line 300 is not JSON .* Fetch the file again"):
        dataset(tmp_path).load("train")


NUMBERS = ["0", "18", "-3", "+3", "1,000", "1234567", "12,345,678.25", "18.00", "0.5"]


def test_numbers_are_kept_as_they_are_written() -> None:
    for gold in NUMBERS:
        assert final_number(f"#### 7 was wrong\n####   {gold} \n") == gold


NO_NUMBERS = [
    "",
    "$18",
    "18%",
    "18 apples",
    "1,00",
    "1,0000",
    "18.",
    ".5",
    "1/2",
    "1e3",
    "nan",
    "\u221218",
    "\u0661",
    "--1",
]


def test_what_is_no_plain_number_is_refused() -> None:
    for gold in NO_NUMBERS:
        with pytest.raises(ValueError, match="end it in a line like"):
            final_number(f"So it is 18.\n#### {gold}")
    with pytest.raises(ValueError, match="the answer ends in '18'"):
        final_number("18")


def test_fingerprint_is_the_hash_of_the_splits_rows(tmp_path: Path) -> None:
    first = dataset(written(tmp_path / "a"))
    prints = {split: first.fingerprint(split) for split in ("train", "validation", "test")}
    assert len(set(prints.values())) == 3
    assert prints["test"] == dataset(written(tmp_path / "b")).fingerprint("test")

    answer = [*TEST[:-1], TEST[-1] | {"answer": TEST[-1]["answer"].replace("It is", "it is")}]
    assert dataset(written(tmp_path / "b", test=answer)).fingerprint("test") != prints["test"]

    # Without its first row the validation questions stay, but their uids shift, so runs would be paired
    # wrongly.
    gone = next(i for i, row in enumerate(TRAIN) if row["question"] in questions(first.load("train")))
    fewer = dataset(written(tmp_path / "b", [*TRAIN[:gone], *TRAIN[gone + 1 :]]))
    assert questions(fewer.load("validation")) == questions(first.load("validation"))
    assert fewer.fingerprint("validation") != prints["validation"]

    assert replace(first, validation_fraction=0.3).fingerprint("train") != prints["train"]
    assert replace(first, validation_fraction=0.3).fingerprint("test") == prints["test"]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"dataset\.validation_fraction=.* must lie in \[0, 1\)"):
        dataset(None, validation_fraction=fraction)


@pytest.mark.parametrize("user", ["", "Problem:", "{question} {question}"])
def test_a_template_without_one_place_for_the_question_is_refused(user: str) -> None:
    with pytest.raises(ValueError, match=r"dataset\.user=.*must hold \{question\} once"):
        dataset(None, user=user)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"unknown split 'dev'; choose one of \['train', 'validation', 'test'\]"
    ):
        dataset(written(tmp_path)).load("dev")  # pyright: ignore[reportArgumentType]


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    data = dataset(written(tmp_path), validation_fraction=0.0)
    assert len(data.load("train")) == len(TRAIN)
    with pytest.raises(
        ValueError, match=r"validation split is empty.*300 rows.*validation_fraction=0\.0; change"
    ):
        data.load("validation")


@pytest.mark.parametrize("folder", ["/somewhere", "", None])
def test_the_yaml_makes_the_dataset_and_takes_its_folder_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    if folder is None:
        monkeypatch.delenv("MIRRORPO_DATA", raising=False)
    else:
        monkeypatch.setenv("MIRRORPO_DATA", folder)
    config = OmegaConf.load(CONF)
    # The defaults list, a choice of schedule, is Hydra's and not the dataset's.
    del config["defaults"]
    data = instantiate(config)
    assert data == replace(dataset(None, validation_fraction=0.1, system=data.system), root=folder)
    assert r"\boxed{}" in data.system


@needs_real_data
def test_real_files_have_their_published_size_and_share_no_question() -> None:
    data = dataset(DATA, validation_fraction=0.1)
    train, validation, test = (data.load(split) for split in ("train", "validation", "test"))
    assert len(train) + len(validation) == 7473
    assert len(validation) == 716
    assert len(test) == 1319
    everything = [" ".join(p.question.split()).casefold() for p in [*train, *validation, *test]]
    assert len(set(everything)) == 8792
    assert (train[0].uid, train[0].gold) == ("gsm8k/train/00000", "72")
    assert sum("," in p.gold for p in [*train, *validation, *test]) == 93


@needs_real_data
def test_real_test_split_has_the_fingerprint_that_its_rows_give() -> None:
    # Lets a user of the hub see that the rows are those of the published files.
    golden = "268432ef4c0ce40dba846b2ddb5f7dcaf0d9101f727521390181619d1ed1c4c1"
    assert dataset(DATA).fingerprint("test") == golden


# The hub without a network, in its own process with its own empty cache.
HUB_SCRIPT = """
import json, sys
from mirrorpo.dataset.gsm8k import Gsm8k
out = {}
for hub in sys.argv[1:]:
    source = dict(root=None, hub=hub, hub_config="main", revision=None)
    data = Gsm8k(**source, validation_fraction=0.2, system="", user="{question}")
    for split in ("train", "validation", "test"):
        try:
            out[hub + " " + split] = [data.fingerprint(split), len(data.load(split))]
        except ValueError as error:
            out[hub + " " + split] = str(error)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def from_hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each (hub, split) gave: fingerprint and size, or the error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    top = tmp_path_factory.mktemp("hub")
    bad = [*TEST[:2], TEST[2] | {"answer": "no number"}]
    for name, splits in {
        "copy": {"train": TRAIN, "test": TEST},
        "bad": {"train": TRAIN, "test": bad},
    }.items():
        (top / name / "main").mkdir(parents=True)
        # The hub's own layout: the card names each configuration's files.
        (top / name / "README.md").write_text(
            "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n  "
            "- split: test\n    path: main/test-*\n---\n"
        )
        for split, rows in splits.items():
            pq.write_table(pa.Table.from_pylist(rows), top / name / f"main/{split}-00000-of-00001.parquet")
    settings = {"HF_HOME": str(top / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-c", HUB_SCRIPT, "copy", "bad", "openai/gsm8k"]
    done = subprocess.run(
        command, cwd=top, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_hub_and_folder_give_the_same_prompts(from_hub: dict[str, Any], tmp_path: Path, split: Any) -> None:
    local = dataset(written(tmp_path))
    assert from_hub[f"copy {split}"] == [local.fingerprint(split), len(local.load(split))]


def test_a_bad_row_of_the_hub_is_named(from_hub: dict[str, Any]) -> None:
    assert from_hub["bad test"].startswith(
        "bad, test row 3: the answer ends in 'no number'; end it in a line"
    )


def test_without_network_or_cache_the_error_says_what_to_do(from_hub: dict[str, Any]) -> None:
    for split, stored in (("train", "train"), ("validation", "train"), ("test", "test")):
        message = from_hub[f"openai/gsm8k {split}"]
        assert (
            f"cannot load '{stored}' of dataset.hub=openai/gsm8k (hub_config=main, revision=None)" in message
        )
        assert "Set MIRRORPO_DATA to a folder with gsm8k/train.jsonl" in message
        assert ", or fill the hub cache once, where there is a network: python -c " in message
