"""Completions that differ from a plain one only in what a test is about."""

from collections.abc import Sequence

from mirrorpo.core.batch import Completion


def completion_of(
    ids: Sequence[int],
    *,
    group: int = 0,
    prompt_ids: Sequence[int] = (1,),
    logprob: float = 0.0,
    uid: str = "",
    text: str = "",
    truncated: bool = False,
) -> Completion:
    """A completion of some tokens, each of one log-probability."""
    return Completion(
        uid=uid,
        group=group,
        prompt_ids=prompt_ids,
        ids=ids,
        logprobs=[logprob] * len(ids),
        text=text,
        truncated=truncated,
    )
