"""The questions of a run: of training, of evaluations, and those by which nothing can be judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import Config, LeavesOutRows, Split
from mirrorpo.reward.plain import check_verdicts
from mirrorpo.train.build import Components
from mirrorpo.train.inputs import content_hash


@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """A run's questions.

    Attributes:
        train: those that are trained on.
        evaluation: those of the evaluations.
        left_out: questions of both splits by which nothing can be judged, by uid with the reason.
        content: a hash of all that each split holds, by its name.
    """

    train: Sequence[Prompt]
    evaluation: Sequence[Prompt]
    left_out: Mapping[str, str]
    content: Mapping[Split, str]


def few_questions_note(config: Config, available: int) -> list[str]:
    """One line, where an evaluation asks for more questions than there are."""
    wanted = config["eval_questions"]
    if available >= wanted:
        return []
    return [f"eval_questions={wanted}: {config['eval_split']} has {available}, and these are evaluated"]


def load_questions(components: Components) -> Questions:
    """Read both splits and have the reward judge the first golds.

    Raises:
        ValueError: if nothing is left of a split, the reward keeps no contract, or this machine cannot
            isolate programs that have to be run.
    """
    config = components.config
    names: tuple[Split, Split] = ("train", config["eval_split"])
    splits = [list(components.dataset.load(split)) for split in names]
    bad_rows = _bad_rows(components, names)
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
    )


def _bad_rows(components: Components, splits: Sequence[Split]) -> Mapping[str, str]:
    dataset = components.dataset
    if not isinstance(dataset, LeavesOutRows):
        return {}
    return {uid: reason for split in splits for uid, reason in dataset.left_out(split).items()}
