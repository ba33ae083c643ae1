"""The answers of a study for a page that is read in a browser: an index, and packed texts behind it."""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis.data.schema import Json, JsonObject
from analysis.data.shown_completions import shown_completions, shown_steps
from analysis.study.design import Run
from analysis.study.study import Study

# Characters of an answer: a longer one is shown without its middle.
LONGEST, HEAD = 12_000, 4_000
# Characters in one packed block of questions, which a browser unpacks as a whole.
BLOCK = 1_500_000
# Bytes of packed texts; questions behind them have verdicts and lengths, and no texts.
MOST_BYTES = 48_000_000
# Steps of a run whose training completions are shown, evenly from the first to the last.
SHOWN_STEPS = 6
# Outcomes are letters from here on; a dash is no answer.
FIRST_LETTER, MOST_OUTCOMES = ord("A"), 26
COLUMNS = ("run", "step", "uid", "question", "gold", "right", "outcome", "tokens", "truncated", "completion")
# The column that names the evaluation set, where an export has one.
SET = "set"


@dataclass
class Pages:
    """What a page holds: `index` as JSON, and by name the packed blocks.

    Attributes:
        index: runs, questions, verdicts, and where texts are.
        blocks: base64 of zlib of JSON, by element id.
        full: questions with texts.
    """

    index: JsonObject
    blocks: dict[str, str] = field(default_factory=dict)
    full: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a run: rows of answers, and by question which row."""

    step: int
    rows: Mapping[str, Sequence[Any]]
    row_of: dict[str, int]


def answers_data(study: Study) -> Pages | None:
    """First and last evaluation of every run, and its shown completions; None where no run has either."""
    runs = study.ordered_runs()
    evaluations = _evaluations(study, runs)
    questions = _questions(evaluations)
    outcomes: dict[str, int] = {}
    made = [[_columns(one, questions["uid"], outcomes) for one in of_run] for of_run in evaluations]
    index: JsonObject = {
        "axis": study.design.axis,
        "runs": [
            {"run": run.name, "arm": run.arm, "block": run.block, "seed": run.seed, "evaluations": of_run}
            for run, of_run in zip(runs, made, strict=True)
        ],
        "questions": questions,
        "starts": [],
        "shown": {"uid": [], "question": [], "gold": [], "rows": []},
    }
    out = Pages(index)
    _pack_shown(out, runs, outcomes)
    _pack_answers(out, evaluations, questions["uid"])
    index["outcomes"], index["full"] = list(outcomes), out.full
    return out if out.blocks else None


def _evaluations(study: Study, runs: Sequence[Run]) -> list[list[Evaluation]]:
    """The first and the last evaluation of each run; one where there is one."""
    questions = study.export.questions
    table = questions.select([*COLUMNS, *({SET} & set(questions.column_names))])
    numbers, names = pd.factorize(questions["run"].cast(pa.string()).to_numpy())
    number_of, steps = {name: number for number, name in enumerate(names)}, questions["step"].to_numpy()
    out: list[list[Evaluation]] = []
    for run in runs:
        places = np.flatnonzero(numbers == number_of.get(run.name, -2))
        ends = sorted({int(steps[places].min()), int(steps[places].max())}) if len(places) else []
        of_run: list[Evaluation] = []
        for step in ends:
            rows = table.take(places[steps[places] == step]).to_pydict()
            of_run.append(Evaluation(step, rows, {uid: row for row, uid in enumerate(_names(rows))}))
        out.append(of_run)
    return out


def _names(rows: Mapping[str, Sequence[Any]]) -> Sequence[str]:
    """The questions' ids; those of another evaluation set than the run's own begin with its name."""
    sets = rows.get(SET, [None] * len(rows["uid"]))
    return [f"{name}: {uid}" if name else uid for name, uid in zip(sets, rows["uid"], strict=True)]


def _questions(evaluations: Sequence[Sequence[Evaluation]]) -> JsonObject:
    """Every question once, in the order in which runs asked them."""
    known: dict[str, tuple[str, str]] = {}
    for of_run in evaluations:
        for one in of_run:
            for uid, row in one.row_of.items():
                if uid not in known:
                    known[uid] = _text(one.rows["question"][row]), _text(one.rows["gold"][row])
    return {
        "uid": list(known),
        "text": [_short(question) for question, _ in known.values()],
        "gold": [_short(gold) for _, gold in known.values()],
    }


def _columns(evaluation: Evaluation, uids: Sequence[str], outcomes: dict[str, int]) -> JsonObject:
    """Verdicts as letters, lengths, and which answers the cap cut, in the order of the questions."""
    rows = evaluation.rows
    letters, lengths = [], []
    for right, outcome, tokens in zip(rows["right"], rows["outcome"], rows["tokens"], strict=True):
        letters.append(_letter(_outcome(bool(right), outcome), outcomes))
        lengths.append(tokens or 0)
    cut = ["1" if value else "0" for value in rows["truncated"]]
    order = [evaluation.row_of.get(uid) for uid in uids]
    return {
        "step": evaluation.step,
        "verdicts": "".join("-" if row is None else letters[row] for row in order),
        "tokens": [0 if row is None else lengths[row] for row in order],
        "cut": "".join("0" if row is None else cut[row] for row in order) if "1" in cut else "",
    }


def _outcome(right: bool, outcome: object) -> str:
    named = _text(outcome).replace("_", " ")
    return "right" if right else named if named not in ("", "right") else "wrong"


def _letter(outcome: str, outcomes: dict[str, int]) -> str:
    place = outcomes.setdefault(outcome, len(outcomes))
    assert place < MOST_OUTCOMES, f"more than {MOST_OUTCOMES} outcomes: {', '.join(outcomes)}"
    return chr(FIRST_LETTER + place)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _short(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    left_out = len(text) - LONGEST
    return f"{text[:HEAD]}\n\n[... {left_out:,} characters left out ...]\n\n{text[HEAD - LONGEST :]}"


def _packed(value: object) -> str:
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return base64.b64encode(zlib.compress(raw, 6)).decode()


def _pack_answers(out: Pages, evaluations: Sequence[Sequence[Evaluation]], uids: Sequence[str]) -> None:
    """Blocks of questions in their order until the page is full; a text that several gave is there once."""
    room = MOST_BYTES - sum(map(len, out.blocks.values()))
    for start, block in _blocks(evaluations, uids):
        packed = _packed(block)
        if len(packed) > room:
            break
        room -= len(packed)
        out.blocks[f"answers-{len(out.index['starts'])}"] = packed
        out.index["starts"].append(start)
        out.full = start + len(block["answers"])


def _blocks(
    evaluations: Sequence[Sequence[Evaluation]], uids: Sequence[str]
) -> Iterator[tuple[int, JsonObject]]:
    """Blocks of questions: of each its first, texts, and by question, run and evaluation which text."""
    texts = [[_completions(one) for one in of_run] for of_run in evaluations]
    start, known, answers, size = 0, {}, [], 0
    for place, uid in enumerate(uids):
        row: list[list[int]] = []
        for of_run, kept in zip(evaluations, texts, strict=True):
            given = [_answer(one, values, uid) for one, values in zip(of_run, kept, strict=True)]
            size += sum(len(text) for text in given if text is not None and text not in known)
            row.append([-1 if text is None else known.setdefault(text, len(known)) for text in given])
        answers.append(row)
        if size >= BLOCK or place + 1 == len(uids):
            yield start, {"texts": list(known), "answers": answers}
            start, known, answers, size = place + 1, {}, [], 0


def _completions(evaluation: Evaluation) -> list[str]:
    return [_short(_text(text)) for text in evaluation.rows["completion"]]


def _answer(evaluation: Evaluation, texts: Sequence[str], uid: str) -> str | None:
    row = evaluation.row_of.get(uid)
    return None if row is None else texts[row]


def _pack_shown(out: Pages, runs: Sequence[Run], outcomes: dict[str, int]) -> None:
    """The training completions that runs kept, a block a run: tokens with their weights and spans."""
    shown, known = out.index["shown"], {}
    for place, run in enumerate(runs):
        block: list[Json] = []
        for step, row in shown_rows(Path(run.row["source"])):
            uid = row["uid"]
            if uid not in known:
                known[uid] = len(known)
                for name in ("uid", "question", "gold"):
                    shown[name].append(_short(_text(row[name])))
            letter = _letter(_outcome(row["outcome"] == "right", row["outcome"]), outcomes)
            shown["rows"].append([place, step, known[uid], letter, row["reward"], len(block)])
            block.append(
                {
                    "pieces": pieces(row["text"], row["offsets"]),
                    "weights": [round(weight, 3) for weight in row["weights"]],
                    "spans": [
                        [span["start"], span["end"], span["kind"], span["drop"]] for span in row["spans"]
                    ],
                }
            )
        if block:
            out.blocks[f"shown-{place}"] = _packed(block)


def shown_rows(run: Path) -> Iterator[tuple[int, Json]]:
    """Steps and rows of the completions that a run shows, of at most `SHOWN_STEPS` steps."""
    steps = shown_steps(run)
    if not steps:
        return
    chosen = np.linspace(0, len(steps) - 1, min(SHOWN_STEPS, len(steps))).round().astype(int)
    yield from shown_completions(run, {steps[index] for index in chosen})


def pieces(text: str, offsets: Sequence[Sequence[int]]) -> list[str]:
    """The text cut into its tokens; characters that several tokens wrote together are the first one's.

    Args:
        text: of a completion.
        offsets: first and last character of each token.

    Example:
        >>> pieces("a € b", [(0, 2), (2, 3), (2, 3), (3, 5)])
        ['a ', '€', '', ' b']
    """
    out: list[str] = []
    written = 0
    for _, end in offsets:
        out.append(text[written : max(end, written)])
        written = max(end, written)
    return out
