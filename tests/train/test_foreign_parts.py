"""A part from outside the package works like one from inside, or is refused in a line before a model is
loaded.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import worked
from cli import SMALL, cell_here, folder, manifest, rows, succeeded, train
from foreign import Remote

from mirrorpo.core.batch import Prompt, RolloutRequest
from mirrorpo.distributed.collectives import Ranks
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.questions import load_questions
from mirrorpo.train.sharded import sharded_engine

TESTS = str(Path(__file__).parents[1])


@cache
def config() -> Mapping[str, Any]:
    return cell_here("dataset.train_size=6", "dataset.validation_size=4", "dataset.test_size=4").config


def built(**groups: Any) -> Components:
    return build_components({**config(), **groups})


def named(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"foreign.{name}", **settings}


# What is refused: one line that names the group, what came and what is wanted.


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (named("nothing"), r"^reward: foreign\.nothing gave a NoneType"),
        (named("Versionless"), r"^reward: a Versionless came; give a class with `version`"),
        (named("Floats"), r"^reward: Floats returned a list of float; wanted is one Verdict for each of 2"),
        (named("TooFew"), r"^reward: TooFew returned 1 verdicts; wanted is one Verdict for each of 2"),
        (
            named("a_word", _partial_=True),
            r"^reward: the function returned 'good', a str; .* returns a number$",
        ),
    ],
    ids=["None", "no version", "floats", "too few", "no number"],
)
def test_a_reward_that_keeps_no_contract_is_refused(reward: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_questions(built(reward=reward))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"divergence": named("nothing", beta=0.1, anchor="old")}, r"^divergence: .*NoneType.*lacks .*reads"),
        (
            {"divergence": named("Summed", scale=1.0, beta=0.1, anchor="old")},
            (
                r"^divergence: Summed reads 'sampled' and returned \[\] for \[2, 3, 5\] log-probabilities; "
                r"wanted"
            ),
        ),
        (
            {"divergence": named("Scaled", scale=1.0, reads="tokens", beta=0.1, anchor="old")},
            r"^divergence: Scaled\.reads is 'tokens'; choose nothing, sampled, top or vocabulary",
        ),
        ({"divergence": named("Scaled", scale=1.0)}, r"^divergence: missing 'beta', 'anchor'"),
        (
            {"rollout": named("OwnWords")},
            r"^rollout: .*OwnWords, which is no RolloutEngine: it lacks generate",
        ),
        ({"dataset": named("FirstHalf")}, r"^dataset: .*it lacks fingerprint, load, system, user"),
        ({"tracking": named("FirstHalf")}, r"^tracking: .*which is no TrackerSpec: it lacks build"),
        (
            {"weighting": named("FirstToken"), "group_size": 2},
            r"^group_size=2 with weighting=first_token: give 3$",
        ),
        ({"entropy": named("OwnWords")}, r"^entropy: .*no EntropyControl: it lacks after, gain, reads"),
        (
            {"entropy": named("Annealed", start=0.1, reads="tokens")},
            r"^entropy: Annealed\.reads is 'tokens'; choose",
        ),
        ({"dataset": named("TestOnly")}, r"^steps=40 with dataset=TestOnly: it has no training split"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_another_part_that_keeps_no_contract_is_refused(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        built(**groups)
    assert "\n" not in str(error.value)


def test_a_weighting_of_the_wrong_shape_is_refused_where_it_first_weighs() -> None:
    weighting = built(weighting=named("OneWeight")).weighting
    with pytest.raises(ValueError, match=r"^weighting: OneWeight returned a Tensor of shape \[1\]; give"):
        weighting.explain(worked.batch("1 + 1 = 2\n#### 2"), worked.Table({}), 0)


# What works


def test_a_plain_function_is_a_reward_with_a_version_of_its_source_and_its_arguments() -> None:
    plain, raised = (
        built(reward=named("exact_match", _partial_=True, **extra)).reward for extra in ({}, {"bonus": 0.5})
    )
    prompt = Prompt(uid="a", question="1 + 1", gold="2", demonstration="")
    verdicts = raised(["it is 2", "it is 3"], [prompt, prompt])
    assert [(verdict.reward, verdict.correct) for verdict in verdicts] == [(1.5, True), (0.5, False)]
    assert plain.version.startswith("function ") and plain.version != raised.version
    assert plain.provenance() == {"sandbox": None} and plain.unjudgeable([prompt]) == {}


def test_a_setting_that_a_function_lacks_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"^reward: scaled_match cannot be called .*'scale'.* keys of its YAML$"
    ):
        built(reward=named("scaled_match", _partial_=True))
    assert built(reward=named("scaled_match", _partial_=True, scale=2.0)).reward.version.startswith(
        "function "
    )


def test_a_second_reward_of_programs_leaves_out_what_it_cannot_judge_and_names_its_jail() -> None:
    components = built(reward=named("Programs"))
    questions = load_questions(components)
    assert list(questions.left_out.values()) == ["its tests are missing"]
    assert len(questions.train) == 5 and components.reward.provenance() == {"sandbox": "a jail"}


def test_a_data_set_for_evaluation_only_is_taken_without_steps() -> None:
    assert len(load_questions(built(dataset=named("TestOnly"), steps=0)).evaluation) == 1


def test_an_advantage_of_rewards_and_groups_works_and_so_does_one_that_reads_lengths() -> None:
    batch = worked.batch("1 + 1 = 2\n#### 2", "#### 3", rewards=[1.0, 3.0], groups=[0, 0])
    lengths = batch.mask.sum(dim=1).tolist()
    for name, expected in (("Ranks", [0.0, 1.0]), ("PerToken", [1 / lengths[0], 3 / lengths[1]])):
        row = {**config()["algo"], "advantage": named(name)}
        assert built(algo=row).algo.advantages(batch).tolist() == pytest.approx(expected)


def test_a_divergence_takes_its_coefficient_and_its_anchor_from_the_penalty() -> None:
    penalty = built(divergence=named("Scaled", scale=2.0, beta=0.25, anchor="old")).penalty
    assert (penalty.beta, penalty.anchor, penalty.reads_old) == (0.25, "old", True)
    assert dataclasses.asdict(penalty.divergence) == {"scale": 2.0, "reads": "sampled"}  # type: ignore[call-overload]


@dataclasses.dataclass(frozen=True, slots=True)
class Heard(Ranks):
    """A rank that hears itself alone."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value]


@pytest.mark.parametrize(
    ("engine", "of_ranks"),
    [(Remote(), [[0, 1, 2, 3], []]), (Remote(serves_remotely=False), [[0, 1], [2, 3]])],
)
def test_a_second_remote_engine_is_asked_by_one_rank_and_a_local_one_by_all(
    engine: Remote, of_ranks: list[list[int]]
) -> None:
    prompts = [Prompt(uid=str(index), question="", gold="", demonstration="") for index in range(4)]
    request = RolloutRequest(
        prompts=prompts, prompt_ids=[[1]] * 4, group_size=1, max_new_tokens=1, temperature=1.0, seed=0
    )
    answered = [
        [answer.group for answer in sharded_engine(engine, rank).generate(None, request)]  # type: ignore[arg-type]
        for rank in (Heard(rank=index, world_size=2, local_rank=index) for index in range(2))
    ]
    assert answered == of_ranks


@pytest.fixture
def launched(tmp_path: Path) -> Callable[..., Path]:
    def launch(**files: str) -> Path:
        for name, text in files.items():
            group, _, choice = name.partition("__")
            path = tmp_path / "own" / group / f"{choice}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        choices = [name.replace("__", "=") for name in files]
        own = ("--config-dir", str(tmp_path / "own"))
        overrides = (*own, *SMALL, "steps=2", *choices)
        succeeded(train(*overrides, cwd=tmp_path, PYTHONPATH=TESTS))
        return folder(tmp_path / "outputs")

    return launch


def test_a_cell_of_foreign_parts_trains_and_its_numbers_agree_with_each_other(
    launched: Callable[..., Path],
) -> None:
    run = launched(
        reward__own="_target_: foreign.OwnWords\n",
        weighting__first_token="_target_: foreign.FirstToken\nscope: loss\n",
        divergence__scaled="_target_: foreign.Scaled\nscale: 2.0\nbeta: 0.1\nanchor: reference\n",
        entropy__annealed="_target_: foreign.Annealed\nstart: 0.5\n",
    )
    for row in rows(run / "metrics.jsonl"):
        if "eval/greedy_accuracy" in row:
            assert row["eval/greedy_accuracy"] == row["eval/greedy_strict"]
    trained = [row for row in rows(run / "metrics.jsonl") if "reward/mean" in row]
    assert [row["entropy/coefficient"] for row in trained] == [0.5, 0.25]
    assert all(row["entropy/held"] == 1.0 for row in trained)
    # Correct is what the reward says, whatever it calls it.
    assert all(row["reward/mean"] == pytest.approx(2.5 * row["reward/strict"]) for row in trained)
    assert any(row["reward/strict"] > 0 for row in trained)
    assert any(row.get("credit/drop_calculation") == 0.5 for row in trained)
    assert {"outcome/bravo", "outcome/alas"} <= {name for row in trained for name in row}
    assert manifest(run)["reward_version"] == "own/1" and manifest(run)["sandbox"] is None
