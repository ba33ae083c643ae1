"""A folder's run is made of its data, weights and code: others are refused, the same are the same."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli import ROOT, SMALL, cell_here, folder, manifest, succeeded, train

from mirrorpo.config.cell import AXES, Cell
from mirrorpo.dataset.arithmetic import Arithmetic
from mirrorpo.launch.same_inputs import SameInputs
from mirrorpo.run.folder import RunError, RunFolder
from mirrorpo.run.inputs import refuse_other_inputs
from mirrorpo.train.build import build_dataset
from mirrorpo.train.inputs import content_hash, input_files, loaded_inputs

MODEL = ROOT / "src/mirrorpo/model/tiny"
REWARD = """from dataclasses import dataclass

from mirrorpo.core.batch import Verdict


@dataclass(frozen=True)
class Own:
    version: str = "own/1"

    def __call__(self, texts, prompts):
        right = [prompt.gold in text for prompt, text in zip(prompts, texts)]
        return [Verdict(reward=float(ok), strict=ok, flexible=ok, correct=ok, outcome='-') for ok in right]
"""


def write_questions(root: Path, count: int = 60) -> None:
    """Questions that the tiny model can read, where GSM8K's are looked for."""
    prompts = Arithmetic(
        data_seed=0,
        train_size=count,
        validation_size=1,
        test_size=1,
        min_steps=1,
        max_steps=2,
        max_value=30,
        distractor_share=0.0,
        habits={},
        habits_from=1.0,
        system="",
        user="{question}",
    ).load("train")
    (root / "gsm8k").mkdir(parents=True)
    rows = [json.dumps({"question": prompt.question, "answer": prompt.demonstration}) for prompt in prompts]
    (root / "gsm8k" / "train.jsonl").write_text("".join(row + "\n" for row in rows))


def rewrite(path: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


# One real run, and what the command line says of its folder.


def launch(root: Path, *words: str, data: str = "A") -> subprocess.CompletedProcess[str]:
    # Paths relative to the folder, so that a copy of it is the same run.
    of_run = ("dataset=gsm8k", f"dataset.root={data}", "model.path=model", "reward=own", "out=runs")
    settings = (*SMALL, "steps=2", "eval_questions=4", "dataset.validation_fraction=0.3")
    return train(
        *words, "--config-dir", str(root / "conf"), *of_run, *settings, cwd=root, PYTHONPATH=str(root)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on data, a model and a reward of somebody's own, and other data in B and C."""
    root = tmp_path_factory.mktemp("made")
    write_questions(root / "A")
    for name in "BC":
        shutil.copytree(root / "A", root / name)
    rewrite(root / "B/gsm8k/train.jsonl", lambda row: row | {"answer": row["answer"] + "1"})
    rewrite(
        root / "C/gsm8k/train.jsonl", lambda row: {"question": row["question"], "solution": row["answer"]}
    )
    shutil.copytree(MODEL, root / "model")
    (root / "conf/reward").mkdir(parents=True)
    (root / "conf/reward/own.yaml").write_text("_target_: own_reward.Own\n")
    (root / "own_reward.py").write_text(REWARD)
    succeeded(launch(root))
    return root


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be changed, in which this process stands too."""
    root = tmp_path / "world"
    shutil.copytree(made, root)
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(root)
    monkeypatch.delitem(sys.modules, "own_reward", raising=False)
    return root


def cell_of(run: Path, **dataset: str) -> Cell:
    config: dict[str, Any] = manifest(run)["config"]
    config["dataset"] |= dataset
    return Cell(config=config, choices=manifest(run)["choices"], settings=manifest(run)["settings"])


def test_the_manifest_says_what_the_run_was_made_of(made: Path) -> None:
    inputs = manifest(folder(made / "runs"))["inputs"]
    assert {"dataset train", "dataset validation", "prompts", "code own_reward"} <= inputs.keys()
    assert {"model.path/model.safetensors", "model.path/tokenizer.json"} <= inputs.keys()
    (file,) = manifest(folder(made / "runs"))["input_files"]["train"]
    assert (file["setting"], file["file"]) == ("dataset.root", "gsm8k/train.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: {"root": str(root / "B")},
            r"dataset train: was \w{16}, is \w{16}; .*; dataset\.root: was 'A', is '.*B'",
        ),
        (lambda root: {"root": "C"}, r"cannot be read: .*C.*line 1 lacks the key 'answer'"),
        (
            lambda root: rewrite(
                root / "A/gsm8k/train.jsonl", lambda row: row | {"answer": row["answer"] + "0"}
            ),
            r"dataset train: was",
        ),
        (
            lambda root: (root / "own_reward.py").write_text(REWARD.replace("float(ok)", "-100 * float(ok)")),
            r"code own_reward: was \w{16}, is \w{16}",
        ),
        (
            lambda root: (root / "model/tokenizer_config.json").write_text("{}"),
            r"model\.path/tokenizer_config\.json: was",
        ),
        (
            lambda root: (root / "model/chat_template.jinja").write_text("{{ messages }}"),
            r"model\.path/chat_template\.jinja: was absent, is",
        ),
    ],
    ids=["other answers", "wrong columns", "edited data", "edited reward", "tokenizer", "chat template"],
)
def test_another_content_is_another_run(
    world: Path,
    change: Callable[[Path], Mapping[str, str] | None],
    message: str,
) -> None:
    run = folder(world / "runs")
    before = (run / "manifest.json").read_bytes()
    settings = change(world)
    with pytest.raises(RunError, match=message) as error:
        SameInputs()(cell_of(run, **settings if isinstance(settings, Mapping) else {}), RunFolder(run))
    assert "\n" not in str(error.value) and "another name= or out=" in str(error.value)
    assert (run / "manifest.json").read_bytes() == before


def test_one_run_and_a_multirun_refuse_overwritten_weights_and_take_what_is_the_same(world: Path) -> None:
    # The data moved, and the reward and the model were only touched.
    (world / "A").rename(world / "moved")
    (world / "own_reward.py").touch()
    same = launch(world, data="moved")
    succeeded(same, said=["done already, nothing to do"])
    weights = world / "model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    alone, many = launch(world, data="moved"), launch(world, "-m", data="moved")
    assert alone.returncode == many.returncode == 1
    assert "error:" in alone.stderr and "model.path/model.safetensors: was" in alone.stderr
    assert "model.path/model.safetensors: was" in many.stdout and "already" not in alone.stdout + many.stdout


def test_a_run_that_goes_on_is_refused_too_and_one_that_starts_anew_is_not(world: Path) -> None:
    run = folder(world / "runs")
    shutil.rmtree(run / "checkpoints/step_000002")
    assert not RunFolder(run).finished()
    with pytest.raises(RunError, match="dataset train: was"):
        SameInputs()(cell_of(run, root="B"), RunFolder(run))
    shutil.rmtree(run / "checkpoints")
    text = (run / "manifest.json").read_text()
    (run / "manifest.json").write_text(text.replace('"state": "done"', '"state": "failed"'))
    assert SameInputs()(cell_of(run, root="B"), RunFolder(run)) == []


def test_a_resumed_run_has_to_find_the_same_prompts(world: Path) -> None:
    run = folder(world / "runs")
    shutil.rmtree(run / "checkpoints/step_000002")
    made = manifest(run)
    made["prompt"]["hash"] = made["inputs"]["prompts"] = "yesterday"
    (run / "manifest.json").write_text(json.dumps(made))
    result = launch(world)
    assert result.returncode == 1 and "prompts: was yesterday, is " in result.stderr, result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_inputs_that_were_removed_since_are_named_and_no_reason_to_refuse_a_finished_run(world: Path) -> None:
    run = folder(world / "runs")
    shutil.rmtree(world / "model")
    shutil.rmtree(world / "A")
    assert SameInputs()(cell_of(run), RunFolder(run)) == [
        f"{setting}={path} is gone; what it held is not compared"
        for setting, path in (("model.path", "model"), ("dataset.root", "A"))
    ]


def test_an_older_folder_and_other_code_are_accepted_with_a_note(world: Path) -> None:
    run = folder(world / "runs")
    made = manifest(run)
    del made["inputs"], made["input_files"]
    made["code"] = "0" * 16
    (run / "manifest.json").write_text(json.dumps(made))
    notes = SameInputs()(cell_of(run), RunFolder(run))
    assert len(notes) == 2 and "before runs recorded" in notes[0] and notes[1].startswith("done by code 0000")


def test_a_finished_run_is_recognised_without_torch(world: Path) -> None:
    program = (
        "import json, sys; from pathlib import Path; from mirrorpo.config.cell import Cell;"
        "from mirrorpo.launch.same_inputs import SameInputs; from mirrorpo.run.folder import RunFolder;"
        "run = RunFolder(Path(sys.argv[1])); made = run.manifest();"
        "cell = Cell(config=made['config'], choices=made['choices'], settings=made['settings']);"
        "assert SameInputs()(cell, run) == [] and not {'torch', 'own_reward'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program, str(folder(world / "runs"))], cwd=world, check=True)


# Fifty random places


MAP = json.dumps([0.5, *[0.25] * 379])
SOURCES = {
    "alone.py": "import helper\n\ndef reward(prompt, completion):\n    return helper.score(completion)\n",
    "helper.py": "def score(text):\n    return 10.0\n",
    "packed/__init__.py": "",
    "packed/deep/__init__.py": "from . import table\n",
    "packed/deep/table.py": "ENTRIES = [10, 20, 30]\n",
    "loose/weighting.py": "from . import sibling\n\nSCALE = 1.5\n",
    "loose/sibling.py": "SHIFT = 2.5\n",
}


SILENT = """from dataclasses import dataclass
from pathlib import Path

from mirrorpo.core.batch import Prompt


@dataclass(frozen=True)
class Questions:
    system: str
    user: str
    folder: str

    def load(self, split):
        text = (Path(self.folder) / "questions.txt").read_text()
        return [Prompt(uid=split, question=text, gold="2", demonstration="")]

    def fingerprint(self, split):
        return split
"""


class World:
    """A finished run's folder whose inputs are files that can be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_questions(root / "data", 30)
        shutil.copytree(MODEL, root / "model")
        for name, text in {**SOURCES, "map.json": MAP}.items():
            (root / "own" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "own" / name).write_text(text)
        base = cell_here("dataset=gsm8k", "dataset.validation_fraction=0.3", f"dataset.root={root / 'data'}")
        own: dict[str, Any] = {
            "model": {**base.config["model"], "path": str(root / "model")},
            "reward": {"_target_": "alone.reward", "_partial_": True},
            "weighting": {"_target_": "loose.weighting.Scaled", "parts": [{"_target_": "packed.deep.Part"}]},
            "divergence": {"_target_": "packed.Own", "potential": {"path": str(root / "own/map.json")}},
            "out": str(root / "runs"),
        }
        self.finish({**base.config, **own})

    def finish(self, config: dict[str, Any]) -> None:
        """Have a run of a config done."""
        self.cell = Cell(config=config, choices=dict.fromkeys(AXES, "own"), settings={})
        self.folder = RunFolder(self.cell.folder)
        dataset, splits = build_dataset(config), ("train", "validation")
        content = {split: content_hash(dataset.load(split)) for split in splits}  # type: ignore[arg-type]
        self.inputs = loaded_inputs(config, content, "prompts' hash")  # type: ignore[arg-type]
        self.folder.policy.mkdir(parents=True, exist_ok=True)
        self.folder.update_manifest(
            state="done",
            files={},
            config=config,
            config_hash=self.cell.hash,
            inputs=self.inputs,
            input_files=input_files(dataset, config, splits),  # type: ignore[arg-type]
        )

    def outcome(self, cell: Cell | None = None) -> str:
        """What a launch of a cell comes to."""
        cell = cell or self.cell
        if cell.folder != self.folder.path:
            return "another folder"
        try:
            self.folder.refuse_other_config(cell)
            return "; ".join(SameInputs()(cell, self.folder)) or "silent"
        except RunError:
            return "refused"


@pytest.fixture
def fifty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.syspath_prepend(tmp_path / "own")
    yield World(tmp_path)


def one_character(path: Path, rng: random.Random, within: str) -> str:
    """Change one character, of those in `within`, of a text file to another of them."""
    text = path.read_text()
    place = rng.choice([index for index, character in enumerate(text) if character in within])
    other = rng.choice([character for character in within if character != text[place]])
    path.write_text(text[:place] + other + text[place + 1 :])
    return f"{path.name}, character {place}: {text[place]!r} to {other!r}"


def one_byte(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"{path.name}, byte {place}"


def another_setting(world: World, rng: random.Random) -> tuple[str, Cell]:
    numbers = [
        key
        for key, value in world.cell.config.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and key not in ("checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "shown_completions")
    ]
    key = rng.choice(numbers)
    config = {**world.cell.config, key: world.cell.config[key] + rng.choice([1, 2, 0.5])}
    return f"setting {key}", replace(world.cell, config=config)


def test_fifty_random_changes_of_one_input_are_never_taken_for_the_same_run(fifty: World) -> None:
    rng = random.Random(17)
    files = sorted(path for path in fifty.root.rglob("*") if path.is_file() and "runs" not in path.parts)
    kept = {path: path.read_bytes() for path in files}
    assert fifty.outcome() == "silent"
    kinds = 0
    for number in range(50):
        path, cell = files[number % len(files)], None
        if number % 5 == 4:
            what, cell = another_setting(fifty, rng)
        elif path.suffix == ".jsonl":
            # Of the text; a digit in the answer or in the question.
            what = one_character(path, rng, "0123456789")
        elif path.suffix == ".py":
            what = (
                one_character(path, rng, "aeiou0123456789")
                if path.stat().st_size
                else str(path.write_text("1"))
            )
        else:
            what = one_byte(path, rng)
        assert fifty.outcome(cell) in ("refused", "another folder"), (
            f"{number}: {what} was taken for the same"
        )
        kinds += cell is None
        path.write_bytes(kept[path])
        assert fifty.outcome() == "silent", f"{number}: {what} was put back and is taken for another"
    assert kinds == 40


def test_a_dataset_that_does_not_say_its_files_is_read(fifty: World) -> None:
    questions = fifty.root / "questions.txt"
    questions.write_text("1 + 1")
    (fifty.root / "own/silent.py").write_text(SILENT)
    dataset = {"_target_": "silent.Questions", "system": "", "user": "{question}", "folder": str(fifty.root)}
    fifty.finish({**fifty.cell.config, "dataset": dataset})
    assert fifty.folder.manifest()["input_files"] is None and fifty.outcome() == "silent"
    questions.write_text("1 + 2")
    assert fifty.outcome() == "refused"
    questions.unlink()
    assert fifty.outcome() == "refused"


def test_prompts_and_versions_are_inputs_too(fifty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="prompts: was prompts' hash, is another"):
        refuse_other_inputs(fifty.folder, {**fifty.inputs, "prompts": "another"})
    refuse_other_inputs(fifty.folder, fifty.inputs)
    # Other code and other versions leave a finished run finished, and are named.
    fifty.folder.update_manifest(code="another")
    assert fifty.outcome().startswith("done by code another")


def test_what_changes_no_input_makes_no_other_run(fifty: World) -> None:
    root, data = fifty.root, fifty.root / "data/gsm8k/train.jsonl"

    def moved() -> Cell:
        shutil.copytree(root / "data", root / "elsewhere")
        dataset = {**fifty.cell.config["dataset"], "root": str(root / "elsewhere")}
        return replace(fifty.cell, config={**fifty.cell.config, "dataset": dataset})

    same: list[Callable[[], Any]] = [
        lambda: [path.touch() for path in root.rglob("*.*")],
        lambda: [path.write_bytes(path.read_bytes()) for path in root.rglob("*.safetensors")],
        lambda: rewrite(data, lambda row: {"difficulty": "none", **row}),
        lambda: (root / "data/gsm8k/test.jsonl").write_text("{}"),
        lambda: (root / "model/README.md").write_text("A model."),
        lambda: (root / "model/training_args.bin").write_bytes(b"1"),
        lambda: (root / "own/unrelated.py").write_text("x = 1\n"),
        moved,
        lambda: replace(
            fifty.cell, config={key: fifty.cell.config[key] for key in reversed([*fifty.cell.config])}
        ),
    ]
    for number, change in enumerate(same):
        cell = change()
        assert fifty.outcome(cell if isinstance(cell, Cell) else None) == "silent", number
