r"""The answer region: the last `####` or closed `\boxed{}`, from the mark to the end of the answer.

What a heading is, is tested in `test_heading`, and where thinking ends in `test_thinking`.
"""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirrorpo.text.answer_marker import marked_answer
from mirrorpo.text.heading import is_heading, states_number

# The region stands between | |, the answer itself between [ ].
MARKED = [
    "So 72.\n|####[ 72]|",
    "|####[72]|\nThat was it.",
    "|####[ 72 clips]|\r\nmore",
    "####17\n|####[ 18]|",
    "#### 17 |####[ 18]|",
    "|####[]|",
    "|####[]|\n18",
    "##### 3\n|####[ 18]|\n### 4",
    r"It is $|\boxed{[72]}|$.",
    r"|\boxed {[72]}|",
    r"|\boxed{[\frac{1}{2}]}| done",
    r"\boxed{17}, |\boxed{[18]}|",
    r"\boxed{|\boxed{[18]}|}",
    r"|\boxed{[18]}| and then \boxed{19",
    r"|\boxed{[]}|",
    r"\{ } { |\boxed{[\{18\}]}|",
    r"\boxed{18} |####[ 17]|",
    r"#### 17 |\boxed{[18]}|",
    r"#### $|\boxed{[18]}|$",
    r"\boxed{|####[ 18}]|",
    "a\u2028|####[ 18]|\u2028b",
    # a heading is no mark, and a closed box outranks a line without a number
    "|####[ 18]|\n#### Step 3: Check\n#### Conclusion",
    r"|\boxed{[18]}|" + "\n#### 2. Verify the Result",
    r"|\boxed{[18]}|" + "\n#### many",
    r"|\boxed{[18]}|" + "\n####",
    r"\boxed{17}" + "\n|####[ x = 18]|",
    "#### Final Answer\n" + r"|\boxed{[18]}|",
    # thinking claims nothing
    r"<think>\boxed{17}</think>|\boxed{[18]}|",
    r"\boxed{17}</think>|####[ 18]|",
    r"|\boxed{[18]}| <think>\boxed{17}",
    "|####[ 1\u00a08]|\x0bb",
]


def test_the_region_and_the_answer() -> None:
    for marked in MARKED:
        text = re.sub(r"[|\[\]]", "", marked)
        answer = marked_answer(text)
        assert answer is not None, marked
        borders = [(answer.start, "|"), (answer.opens, "["), (answer.closes, "]"), (answer.end, "|")]
        for position, sign in reversed(borders):
            text = text[:position] + sign + text[position:]
        assert text == marked
        assert answer.mark == ("hashes" if "|####" in marked else "box"), marked


UNMARKED = [
    "",
    "The answer is 18.",
    "Final answer: 18",
    "### 18",
    "##### 18",
    r"\boxed{18",
    r"\boxed 18",
    r"boxed{18}",
    "}{",
    r"\box{1}",
    "#### Step 18",
    "#### 18. Add the Eggs",
    r"<think>\boxed{18}</think> That was hard.",
    r"<think>\boxed{18}",
    r"\boxed{18}</think>",
]


def test_nothing_marked() -> None:
    for text in UNMARKED:
        assert marked_answer(text) is None, text


def test_thinking_may_be_read_like_the_rest() -> None:
    text = r"<think>\boxed{17}</think> That was hard."
    answer = marked_answer(text, "read")
    assert answer is not None and text[answer.opens : answer.closes] == "17"


PIECES = ["####", "#", "\\boxed{", "\\boxed {", "{", "}", "\\", "18", " ", "\n", "\u2028", "$", "so"]


def naive(text: str) -> tuple[int, int, int, int] | None:
    """Every place tried as a mark, from the last one down."""
    lines: list[tuple[int, int, int, int]] = []
    for start in reversed(range(len(text))):
        if (
            text.startswith("####", start)
            and text[start + 4 : start + 5] != "#"
            and text[max(start - 1, 0) : start] != "#"
        ):
            closes = start + 4
            while closes < len(text) and len(text[closes : closes + 1].splitlines()[0]) == 1:
                closes += 1
            if not is_heading(text[start + 4 : closes]):
                lines.append((start, start + 4, closes, closes))
        box = re.compile(r"\\boxed\s?\{").match(text, start)
        if box and not_escaped(text, start):
            depth, place = 1, box.end()
            while place < len(text) and depth:
                if text[place] == "\\":
                    place += 1
                else:
                    depth += {"{": 1, "}": -1}.get(text[place], 0)
                place += 1
            if not depth:
                outranked = [line for line in lines if states_number(text[line[1] : line[2]])]
                return (
                    outranked[0]
                    if outranked and outranked[0] == lines[0]
                    else (start, box.end(), place - 1, place)
                )
    return lines[0] if lines else None


def not_escaped(text: str, place: int) -> bool:
    before = text[:place]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 0


@given(text=st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@example("\\\\boxed{18}")
def test_the_last_mark_counts_whatever_stands_around_it(text: str) -> None:
    answer = marked_answer(text)
    assert (answer and (answer.start, answer.opens, answer.closes, answer.end)) == naive(text)


@given(text=st.text() | st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_no_text_raises_and_the_region_is_inside(text: str) -> None:
    answer = marked_answer(text)
    if answer is not None:
        assert 0 <= answer.start < answer.opens <= answer.closes <= answer.end <= len(text)


@pytest.mark.parametrize(
    "piece",
    [
        "#",
        "#### ",
        "####\n",
        "\\boxed{",
        "\\boxed{1}",
        "{",
        "}",
        "\\",
        "\\boxed{{}",
        "\\boxed ",
        "<think>",
        "</think>",
        "#### 1. A\n",
    ],
)
def test_long_texts_end(piece: str) -> None:
    start = time.process_time()
    marked_answer(piece * (100_000 // len(piece)))
    assert time.process_time() - start < 1.0
