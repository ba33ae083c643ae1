"""Rewards in the form that the trainer uses, from a class with a version or a function of one answer."""

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.core.protocols import ListsRightAnswers, RewardFn, Verifier

RewardFunction = Callable[[Prompt, str], float]


def plain_verdict(reward: float) -> Verdict:
    """The verdict of a reward that is a number and no more: correct from 1 on, no verdict where it is NaN.

    Example:
        >>> plain_verdict(1.0).outcome, plain_verdict(0.5).outcome, plain_verdict(float("nan")).outcome
        ('right', 'wrong', 'unverifiable')
    """
    correct = reward >= 1
    outcome = "unverifiable" if math.isnan(reward) else "right" if correct else "wrong"
    return Verdict(reward=reward, strict=correct, flexible=correct, correct=correct, outcome=outcome)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainReward:
    """A function `(prompt, completion) -> float` as a reward.

    A completion is correct, by every extraction, when its reward is 1 or more; NaN is no verdict. The
    version is a hash of the function's source and of the arguments that it was bound to.

    Attributes:
        function: the reward of one completion's text.

    Example:
        >>> prompt = Prompt(uid="q", question="2 + 2?", gold="4", demonstration="")
        >>> reward = PlainReward(function=lambda prompt, completion: float(completion == prompt.gold))
        >>> [(verdict.reward, verdict.outcome) for verdict in reward(["4", "5"], [prompt] * 2)]
        [(1.0, 'right'), (0.0, 'wrong')]
    """

    function: RewardFunction

    @property
    def version(self) -> str:
        """Hash of what computes it."""
        bound = self.function if isinstance(self.function, partial) else partial(self.function)
        try:
            source = inspect.getsource(bound.func)
        except (OSError, TypeError):
            # Of a function without source, as of a built-in, the name is all there is that lasts.
            source = f"{bound.func.__module__}.{bound.func.__qualname__}"
        text = "\n".join([source, repr(bound.args), repr(sorted(bound.keywords.items()))])
        return "function " + hashlib.sha256(text.encode()).hexdigest()[:16]

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]:
        return [
            self._verdict(self.function(prompt, text)) for prompt, text in zip(prompts, texts, strict=True)
        ]

    def _verdict(self, value: object) -> Verdict:
        # bool is a number to Python and a fine reward.
        if not isinstance(value, int | float):
            raise ValueError(
                f"reward: the function returned {value!r}, a {type(value).__name__}; a function of a prompt "
                "and a completion returns a number"
            )
        return plain_verdict(float(value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A `RewardFn` as a `Verifier`: it can judge every prompt, and its provenance is its version alone.

    Attributes:
        reward: the verdicts.
    """

    reward: RewardFn

    @property
    def version(self) -> str:
        """The reward's."""
        return self.reward.version

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]:
        return self.reward(texts, prompts)

    def right_answers(self, prompt: Prompt) -> Sequence[str]:
        """The reward's, if it lists them."""
        return self.reward.right_answers(prompt) if isinstance(self.reward, ListsRightAnswers) else ()

    def unjudgeable(self, prompts: Sequence[Prompt]) -> Mapping[str, str]:
        """None."""
        return {}

    def provenance(self) -> Mapping[str, object]:
        """No program runs."""
        return {"sandbox": None}


def verifier(reward: object) -> Verifier:
    """A reward as the trainer uses it.

    Raises:
        ValueError: for what is neither a reward nor a function of a prompt and a completion.
    """
    if isinstance(reward, Verifier):
        return reward
    if isinstance(reward, RewardFn):
        return Judged(reward=reward)
    if isinstance(reward, partial) or inspect.isfunction(reward):
        _check_arguments(reward)
        return Judged(reward=PlainReward(function=cast("RewardFunction", reward)))
    raise ValueError(
        f"reward: a {type(reward).__name__} came; give a class with `version` and `__call__(texts, prompts)` "
        "that returns verdicts, or a function of a prompt and a completion that returns a number (with "
        "_partial_: true)"
    )


def _check_arguments(function: Callable[..., object]) -> None:
    # What the YAML does not set is named here, and not in the middle of a run.
    name = (function.func if isinstance(function, partial) else function).__name__
    try:
        inspect.signature(function).bind(None, "")
    except TypeError as error:
        raise ValueError(
            f"reward: {name} cannot be called with a prompt and a completion ({error}); give its further "
            "arguments as keys of its YAML"
        ) from error


def check_verdicts(reward: RewardFn, prompts: Sequence[Prompt]) -> None:
    """Have a reward judge some golds, so that one that keeps no contract is refused before a model is loaded.

    Raises:
        ValueError: naming what was returned and what the contract is.
    """
    verdicts = reward([prompt.gold for prompt in prompts], prompts)
    name = type(reward.reward if isinstance(reward, Judged) else reward).__name__
    contract = f"one Verdict for each of {len(prompts)} completions"
    if not isinstance(verdicts, Sequence):
        raise ValueError(f"reward: {name} returned a {type(verdicts).__name__}; wanted is {contract}")
    if wrong_types := sorted(
        {type(verdict).__name__ for verdict in verdicts if not isinstance(verdict, Verdict)}
    ):
        raise ValueError(f"reward: {name} returned a list of {', '.join(wrong_types)}; wanted is {contract}")
    if len(verdicts) != len(prompts):
        raise ValueError(f"reward: {name} returned {len(verdicts)} verdicts; wanted is {contract}")
