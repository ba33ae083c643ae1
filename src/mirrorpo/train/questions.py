"""The questions of a run: of training, of evaluations, and those by which nothing can be judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mirrorpo.config.identity import EVAL_SETS
from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Config, Dataset, LeavesOutRows, Split
from mirrorpo.reward.plain import check_verdicts
from mirrorpo.train.build import Components
from mirrorpo.train.eval_set import EvalSet
from mirrorpo.train.inputs import content_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class SetQuestions:
    """The questions of an evaluation set.

    Attributes:
        evaluation: those that are evaluated.
        left_out: questions of the split by which nothing can be judged, by uid with the reason.
        content: a hash of all that the split holds.
    """

    evaluation: Sequence[Prompt]
    left_out: Mapping[str, str]
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """A run's questions.

    Attributes:
        train: those that are trained on.
        evaluation: those of the evaluations.
        left_out: questions of both splits by which nothing can be judged, by uid with the reason.
        content: a hash of all that each split holds, by its name.
        sets: those of the sets beside the run's own.
    """

    train: Sequence[Prompt]
    evaluation: Sequence[Prompt]
    left_out: Mapping[str, str]
    content: Mapping[Split, str]
    sets: Mapping[str, SetQuestions] = field(default_factory=dict[str, SetQuestions])


def few_questions_note(config: Config, available: int, prefix: str = "") -> list[str]:
    """One line, where an evaluation asks for more questions than there are.

    Args:
        config: of the run, or of one of its evaluation sets.
        available: questions of the split.
        prefix: of the settings' names.
    """
    wanted = config["eval_questions"]
    if available >= wanted:
        return []
    return [
        f"{prefix}eval_questions={wanted}: {config['eval_split']} has {available}, and these are evaluated"
    ]


def few_questions_notes(config: Config, questions: Questions) -> list[str]:
    """The lines of the run's own questions and of its evaluation sets."""
    of_sets = [
        note
        for name, of_set in questions.sets.items()
        for note in few_questions_note(
            config[EVAL_SETS][name], len(of_set.evaluation), f"{EVAL_SETS}.{name}."
        )
    ]
    return [*few_questions_note(config, len(questions.evaluation)), *of_sets]


def load_questions(components: Components) -> Questions:
    """Read both splits and have the reward judge the first golds.

    Raises:
        ValueError: if nothing is left of a split, the reward keeps no contract, or this machine cannot
            isolate programs that have to be run.
    """
    config = components.config
    names: tuple[Split, Split] = ("train", config["eval_split"])
    splits = [list(components.dataset.load(split)) for split in names]
    bad_rows = _bad_rows(components.dataset, names)
    faults = components.reward.unjudgeable([prompt for split in splits for prompt in split])
    for split in splits:
        if split and all(prompt.uid in faults for prompt in split):
            first = split[0].uid
            raise ValueError(
                f"none of {len(split)} problems can be judged, the first one, {first}, since {faults[first]}"
            )
    train, evaluation = ([prompt for prompt in split if prompt.uid not in faults] for split in splits)
    check_verdicts(components.reward, (train or evaluation)[:2])
    return Questions(
        train=train,
        evaluation=evaluation[: config["eval_questions"]],
        left_out={**bad_rows, **faults},
        content={name: content_hash(split) for name, split in zip(names, splits, strict=True)},
        sets={name: load_set(eval_set) for name, eval_set in components.eval_sets.items()},
    )


def load_set(eval_set: EvalSet) -> SetQuestions:
    """Read the questions of an evaluation set and have its reward judge the first golds.

    Raises:
        ValueError: naming the set, if no question of it can be judged or its reward keeps no contract.
    """
    try:
        split = list(eval_set.dataset.load(eval_set.split))
        bad_rows = _bad_rows(eval_set.dataset, [eval_set.split])
        faults = eval_set.reward.unjudgeable(split)
        kept = [prompt for prompt in split if prompt.uid not in faults]
        if not kept:
            reason = f", the first one since {faults[split[0].uid]}" if split else ""
            raise ValueError(f"none of {len(split)} questions of {eval_set.split} can be judged{reason}")
        check_verdicts(eval_set.reward, kept[:2])
    except ValueError as error:
        raise ValueError(f"{EVAL_SETS}.{eval_set.name}: {error}") from error
    count = eval_set.settings.eval_questions
    left_out = {**bad_rows, **faults}
    return SetQuestions(evaluation=kept[:count], left_out=left_out, content=content_hash(split))


def _bad_rows(dataset: Dataset, splits: Sequence[Split]) -> Mapping[str, str]:
    if not isinstance(dataset, LeavesOutRows):
        return {}
    return {uid: reason for split in splits for uid, reason in dataset.left_out(split).items()}
