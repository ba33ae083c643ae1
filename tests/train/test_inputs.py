"""Questions by content, and the files behind them by the setting that leads there."""

import dataclasses
from pathlib import Path
from typing import Any

from cli import cell_here
from foreign import TestOnly
from omegaconf import OmegaConf

from mirrorpo.core.batch import Checks, Prompt
from mirrorpo.train.build import build_dataset
from mirrorpo.train.inputs import content_hash, input_files

CONF = Path(__file__).parents[2] / "conf/dataset"
CHECKS = Checks(entry_point="f", prefix="a", setup="b", prelude="c", visible=["d"], hidden=["e"], fault="")
PROMPT = Prompt(uid="u", question="q", gold="g", demonstration="d", checks=CHECKS)


def test_every_field_of_a_question_and_their_order_is_content() -> None:
    others = [
        *(
            dataclasses.replace(PROMPT, **{name: "x"})
            for name in ("uid", "question", "gold", "demonstration")
        ),
        dataclasses.replace(PROMPT, checks=None),
        *(
            dataclasses.replace(PROMPT, checks=dataclasses.replace(CHECKS, **{field.name: "x"}))
            for field in dataclasses.fields(CHECKS)
        ),
    ]
    hashes = {content_hash([prompt]) for prompt in [PROMPT, *others]}
    assert len(hashes) == 1 + len(others)
    assert content_hash([PROMPT, others[0]]) != content_hash([others[0], PROMPT])
    same = dataclasses.replace(PROMPT, checks=dataclasses.replace(CHECKS, visible=("d",)))
    assert content_hash([PROMPT]) == content_hash([same])


def of(name: str, **settings: Any) -> Any:
    config = {**cell_here().config, "dataset": {**read(name), **settings}}
    return input_files(build_dataset(config), config, ["train", "test"])


def read(name: str) -> dict[str, Any]:
    node = OmegaConf.load(CONF / f"{name}.yaml")
    settings: Any = OmegaConf.to_container(node)
    return {key: value for key, value in settings.items() if key != "defaults"} | {"root": None}


def test_datasets_say_which_files_they_read(tmp_path: Path) -> None:
    names = (
        "gsm8k/train.jsonl",
        "gsm8k/test.jsonl",
        "mbpp/mbpp.jsonl",
        "humaneval/HumanEval.jsonl.gz",
        "plus",
    )
    for name in (*names, "copy/data/train.parquet", "copy/.cache/train.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    root = str(tmp_path)

    def listed(files: Any) -> dict[str, list[tuple[str, str]]]:
        return {split: [(file["setting"], file["file"]) for file in files[split]] for split in files}

    assert listed(of("gsm8k", root=root)) == {
        "train": [("dataset.root", "gsm8k/train.jsonl")],
        "test": [("dataset.root", "gsm8k/test.jsonl")],
    }
    assert listed(of("mbpp", root=root, plus=f"{root}/plus")) == {
        "train": [("dataset.root", "mbpp/mbpp.jsonl")],
        "test": [("dataset.plus", ".")],
    }
    assert listed(of("humaneval", root=root))["test"] == [("dataset.root", "humaneval/HumanEval.jsonl.gz")]
    assert listed(of("gsm8k", hub=f"{root}/copy"))["train"] == [("dataset.hub", "data/train.parquet")]
    for name in ("gsm8k", "mbpp", "humaneval"):
        assert listed(of(name)) == {"train": [], "test": []}, name


def test_made_questions_have_no_files_and_a_class_that_does_not_say_is_not_taken_for_one() -> None:
    config = cell_here().config
    for name in ("arithmetic", "tiny_functions", "chain_sum"):
        dataset = build_dataset({"dataset": {k: v for k, v in read(name).items() if k != "root"}})
        assert input_files(dataset, config, ["train"]) == {"train": []}, name
    assert input_files(TestOnly(), config, ["train"]) is None  # type: ignore[arg-type]
