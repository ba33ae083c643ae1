"""Whether a model knows the questions by heart: what it makes of the rest of each when it is given the start.

    exact_q   = 1 where the greedy continuation of the first 60% of q begins with the rest of q, verbatim
    overlap_q = characters of the rest up to the first that differs, over all of its characters

The text is the question's own, without chat template, instructions or few-shot turns. It is cut at the last
white space at or before 60% of its characters, so that no word is given away; white space at the cut is not
compared. A question that a model has never seen is hardly ever completed verbatim, however able the model is.

References:
    Partial-prompt completion: Wu et al. 2025, "Reasoning or Memorization?", https://arxiv.org/abs/2507.10532
    (Qwen2.5-Math-7B completes 54.6% of MATH-500, and none of a later benchmark).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from mirrorpo.core.batch import Prompt, RolloutRequest
from mirrorpo.core.protocols import GenerativeModel, RolloutEngine
from mirrorpo.core.seeds import derive
from mirrorpo.run.disk import write_atomic, writing_to
from mirrorpo.run.folder import RunFolder

# Of the rows, in a run's folder.
FILE = "eval/contamination.jsonl"
SHARE = 0.6
# A model may write the rest in other tokens than its tokenizer does.
SPARE_TOKENS = 8


class ScreenedRow(TypedDict):
    """One question: what was given, what follows in it, and what the model wrote."""

    uid: str
    given: str
    rest: str
    written: str
    exact: bool
    overlap: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Screening:
    """What a screen shows.

    Attributes:
        metrics: `contamination/questions`, and the means `contamination/exact` and `contamination/overlap`.
        rows: by question, in order.
    """

    metrics: dict[str, float]
    rows: Sequence[ScreenedRow]

    def write(self, folder: RunFolder) -> None:
        """Put the rows into a run's folder."""
        path = folder.path / FILE
        with writing_to(folder.path):
            path.parent.mkdir(exist_ok=True)
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in self.rows))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Halves:
    # A question's start, with its tokens, and its rest.
    prompt: Prompt
    given: str
    ids: Sequence[int]
    rest: str


def screen(model: GenerativeModel, engine: RolloutEngine, prompts: Sequence[Prompt]) -> Screening:
    """Have the model complete the start of each question, greedily.

    A question that is too short to have a start and a rest is left out.

    Raises:
        ValueError: if that is so of every question.
    """
    halves = [half for prompt in prompts if (half := _halves(model, prompt)) is not None]
    if not halves:
        raise ValueError(
            f"contamination_questions={len(prompts)}: none of these questions is long enough to be cut; set "
            "contamination_questions=0"
        )
    lengths = [len(model.tokenizer(half.rest, add_special_tokens=False).input_ids) for half in halves]
    request = RolloutRequest(
        prompts=[half.prompt for half in halves],
        prompt_ids=[half.ids for half in halves],
        group_size=1,
        max_new_tokens=max(lengths) + SPARE_TOKENS,
        temperature=0.0,
        seed=derive(0, "evaluation", "contamination"),
    )
    completions = engine.generate(model, request)
    rows = [_row(half, completion.text) for half, completion in zip(halves, completions, strict=True)]
    count = len(rows)
    metrics = {
        "contamination/questions": float(count),
        "contamination/exact": sum(row["exact"] for row in rows) / count,
        "contamination/overlap": sum(row["overlap"] for row in rows) / count,
    }
    return Screening(metrics=metrics, rows=rows)


def split_question(text: str) -> tuple[str, str]:
    """The first 60% of a question and its rest, without the white space between them.

    A text without white space near there is cut between two characters.

    Example:
        >>> split_question("Tom has 3 pears and eats 1. How many are left?")
        ('Tom has 3 pears and eats 1.', 'How many are left?')
    """
    text = text.strip()
    at = int(SHARE * len(text))
    boundaries = [match.start() for match in re.finditer(r"\s+", text[: at + 1])]
    cut = boundaries[-1] if boundaries and 2 * boundaries[-1] >= at else at
    return text[:cut].rstrip(), text[cut:].lstrip()


def _halves(model: GenerativeModel, prompt: Prompt) -> _Halves | None:
    given, rest = split_question(prompt.question)
    ids = list(model.tokenizer(given).input_ids) if given else []
    if ids and ids[-1] in model.eos_ids:
        # Some tokenizers close every text.
        ids = ids[:-1]
    if not (ids and rest):
        return None
    return _Halves(prompt=replace(prompt, question=given), given=given, ids=ids, rest=rest)


def _row(half: _Halves, text: str) -> ScreenedRow:
    written = text.lstrip()
    length = len(half.rest)
    shared = next((at for at in range(length) if half.rest[at] != written[at : at + 1]), length)
    return ScreenedRow(
        uid=half.prompt.uid,
        given=half.given,
        rest=half.rest,
        written=written,
        exact=shared == length,
        overlap=shared / length,
    )
