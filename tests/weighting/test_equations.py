"""Calculations in text: what is one, where it begins and ends, and how many of GSM8K's are found."""

import importlib.util
import json
import re
import time

from hypothesis import example, given
from hypothesis import strategies as st
from real_data import DATA, needs

from mirrorpo.dataset.arithmetic import Arithmetic
from mirrorpo.weighting import equations
from mirrorpo.weighting.equations import calculations


def texts(text: str, unit_words: int = 3) -> list[str]:
    return [
        text[start:end]
        for start, end in calculations(text, unit_words=unit_words, end=len(text), answered=False)
    ]


# The calculation stands between [ ].
MARKED = [
    "[48/2 = 24]",
    "Natalia sold [48/2 = 24] clips in May.",
    "[3 x 4 = 12], [3X4=12] and [3 × 4 ÷ 2 = 6]",
    "x = [3 + 4 = 7] and y = 8",
    "[10 - 3 - 2=5]. Then [5 – 2 = 3], [5 \u2212 2 = 3] and [5 — 2 = 3].",
    # numbers
    "[$1,200.50 + $3 = $1,203.50].",
    r"[\$5 \times 3 = \$15]",
    "[$.50 + $.50 = $1.00] in all",
    "[1{,}000 * 2 = 2{,}000]",
    "[5 € + 6 € = 11] €",
    "[100% - 20% = 80%] left",
    r"[20\% \cdot 50 = 10]",
    "[½ * 6 = 3]",
    "1,2,[3 + 4 = 5]",
    "1:[30 + 2 = 32]",
    "[10 / 3 ≈ 3.33] and [7 // 2 == 3]",
    # signs
    "[-5 + 3 = -2]",
    "- [5 + 3 = 8]",
    "[5 + (-3) = 2], [5 * -3 = -15]",
    # parentheses
    "[(3 + 4) * 2 = 14]",
    "[2(3+4) = 14], [(1/2)(4) = 2]",
    "([3 + 4 = 7])",
    "(([3+4)*2 = 14])".replace("(([", "([("),
    "5 * ([3 + 4 = 7])",
    "2 + 3 = 5 * ([4 + 1 = 5])",
    "( [3 + 4 = 7] )",
    "It is 8 [(2 + 6) = 8]",
    "[3 + 4 = 5] * (2",
    "(((([3+4=7]",
    "[3+4=7])=8",
    r"\left([3 + 4 = 7\right)]".replace(r"7\right)]", r"7]\right)"),
    # chains
    "[2 + 3 = 5 + 1 = 6]",
    "5 = [2 + 3 = 5]",
    "[3 + 4 = 7] - x",
    "[3 + 4 = 7] apples = 7 fruits",
    "[5 feet * 12 inches = 60 inches + 3 inches = 63] inches",
    # LaTeX
    r"[\frac{1}{2} \times 6 = 3]",
    r"[\frac{48 + 2}{2} = 25], [\dfrac12 \cdot 4 = 2]",
    r"\([48 \div 2 = 24]\) and [$3^2 + \sqrt{16} = 13]$",
    r"\[ [48 \text{ clips} + 24 \text{ clips} = 72] \text{ clips} \]",
    "[2^{3} = 8], [5² = 25]",
    r"$$[\left(3 + 4\right) \, \ast 2 &= 14]$$",
    # annotations
    "[48/2 = <<48/2=24>>24] clips",
    "[$12/60 = $<<12/60=0.2>>0.2] per minute",
    "she spent [<<5*3=15>>15] dollars",
    "[<<48/2=24>>]",
    "5 dozen = [<<5*12=60>>60] eggs",
    "[287 x 4 = <<1148=1148>>1,148] because",
    # cut off by the length limit
    "so <<[48/2=24]",
    # units and spoken operators
    "[3 apples + 4 red apples = 7] apples",
    "[7 stickers/page * 6 pages= 42] stickers",
    "[$120 / 5 points per dollar = 24]",
    "[6-ounce * 2 = 12]",
    "[50% of 200 = 100], [1/2 of 30 = 15]",
    "[4 times 5 equals 20], [26 divided by 13 = 2]",
    "$9 for a total of [6+3 = $9]",
    # emphasis
    "[3 + 4 = **7]** toys",
    # the tiny model's lines
    "Sam has [18 + 3 = <<18+3=21>>21] toys.\nSam has [21 - 5 = <<21-5=16>>16] toys.",
]  # fmt: skip

# No calculation, and no marks.
NONE = [
    "", "5 = 5", "x = 3", "2 + 2", "12 = 3 * 4", "3 + 4 =\n7", "3 + 4\n= 7", "3 + 4 => 7", "7 <= 3 + 4",
    "3 + 4 != 7 !", "a - 3 = 4", "3 + = 4", "3 + 4 = x", "<<15=15>>15 years", "<<-5=-5>>",
    "50% of 200 is 100", "3 + 4 = = 7", "3 + 4, = 7", "1. = 2", "== 3", "3 (4 = 5)", "3 ) + 4 = 7 )",
]  # fmt: skip


def test_calculations() -> None:
    for marked in MARKED:
        # An opening bracket behind a backslash is LaTeX's.
        expected = re.findall(r"(?<!\\)\[(.*?)(?<!\\)\]", marked)
        assert texts(re.sub(r"(?<!\\)[\[\]]", "", marked)) == expected, marked


def test_no_calculation() -> None:
    for text in NONE:
        assert texts(text) == [], text


def test_units_have_at_most_so_many_words() -> None:
    text = "3 + 4 red apples = 7"
    assert [texts(text, unit_words) for unit_words in range(4)] == [[], [], [text], [text]]


def test_a_result_that_stands_in_the_answer_counts() -> None:
    text = r"Total: 48 + 24 = $\boxed{72}$"
    end = text.index("\\boxed")
    (interval,) = calculations(text, unit_words=0, end=end, answered=True)
    assert text[slice(*interval)] == "48 + 24 = $"
    assert calculations(text, unit_words=0, end=end, answered=False) == []
    assert calculations("48 + 24 = 72.\n#### 72", unit_words=0, end=14, answered=True) == [(0, 12)]


def test_nothing_is_read_behind_the_end() -> None:
    assert calculations("3 + 4 = 78", unit_words=0, end=9, answered=False) == [(0, 9)]


PIECES = [
    "3", "12", "1,000", ".5", "$", "+", "-", " - ", "*", "**", "/", "x", " ", "=", "==", "(", ")", "<<",
    ">>", "<<3+4=7>>", "%", " of ", "apples", "\n", "\\frac{1}{2}", "\\frac{", "}", "\\times ", "\\left(",
    "\\right)", "^2", "½", "−", ".", "\\text{a}", "é", "\u2028",
]  # fmt: skip


@given(
    text=st.text() | st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    unit_words=st.integers(0, 3),
    answered=st.booleans(),
    data=st.data(),
)
@example(text="(3)\\frac{1}{2}=(", unit_words=0, answered=True, data=None)
def test_no_text_raises_and_calculations_are_in_order_on_one_line(
    text: str, unit_words: int, answered: bool, data: st.DataObject | None
) -> None:
    end = len(text) if data is None else data.draw(st.integers(0, len(text)))
    intervals = calculations(text, unit_words=unit_words, end=end, answered=answered)
    assert intervals == calculations(text, unit_words=unit_words, end=end, answered=answered)
    before = 0
    for start, stop in intervals:
        assert before <= start < stop <= end
        assert text[start:stop] == text[start:stop].strip()
        assert "=" in text[start:stop] or "\u2248" in text[start:stop]
        assert len(text[start:stop].splitlines()) == 1
        before = stop


LONG = [
    "1", "1+1=", "(", "((1", ")", "<<1+1=2", "<<1+1=2>>", ">>", "\\frac{", "\\frac{1}{", "\\frac{{}", "{",
    "}", "$", "- ", "1,", "1,000", "a", "1 a ", "of ", "**", "1^{", "=", "\\text{", "'a", "\\left", "1.",
]  # fmt: skip


def test_long_texts_end() -> None:
    # Read without the shape checks of the tests, which take longer than the work.
    spec = importlib.util.spec_from_file_location("unchecked", str(equations.__file__))
    assert spec is not None and spec.loader is not None
    unchecked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unchecked)
    for piece in LONG:
        text = piece * (100_000 // len(piece))
        for hostile in (f"1 + 1 = 2 + {text}x", f"\\frac{{{text} = 1"):
            start = time.process_time()
            unchecked.calculations(hostile, unit_words=3, end=len(hostile), answered=True)
            assert time.process_time() - start < 1.0, piece


@given(
    numbers=st.lists(st.decimals(0, 10**7, places=2), min_size=2, max_size=5),
    draw=st.randoms(use_true_random=False),
)
def test_sums_in_every_dress_are_found_from_end_to_end(numbers: list, draw) -> None:  # type: ignore[no-untyped-def]
    def dress(number: object) -> str:
        return draw.choice(
            ["{}", "{:,}", "${}", "${:,}", "\\${}", "({})", "{}%", "{} apples", "{} red apples", "-{}"]
        ).format(number)

    text = draw.choice([" + ", "+", " - ", " * ", " x ", " \\times ", " / ", " \u00f7 "]).join(
        map(dress, numbers)
    )
    result = draw.choice(["= {}", "={:,}", "= ${}", "= <<1+1={0}>>{0}"]).format(sum(numbers))
    head, tail = draw.choice([("", ""), ("So she has ", " apples."), ("Total: ", ", then"), ("\n", "\n")])
    assert texts(f"{head}{text} {result}{tail}") == [f"{text} {result}"]


def test_every_step_of_the_tiny_models_demonstrations_is_found() -> None:
    data = Arithmetic(
        data_seed=0, train_size=50, validation_size=1, test_size=1, min_steps=1, max_steps=4, max_value=99,
        distractor_share=0.5, habits={}, habits_from=0.0, system="", user="{question}",
    )  # fmt: skip
    for prompt in data.load("train"):
        steps = prompt.demonstration.splitlines()[:-1]
        assert texts(prompt.demonstration, unit_words=0) == [
            re.sub(r"^\w+ has (.*) \w+\.$", r"\1", step) for step in steps
        ]


@needs("gsm8k/train.jsonl")
def test_nearly_every_annotated_step_of_gsm8k_is_found_with_and_without_its_annotation() -> None:
    lines = (DATA / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    kept, stripped, answers = [], [], []
    for line in lines[:500]:
        body = json.loads(line)["answer"].split("####")[0]
        notes = [
            note for note in re.finditer(r"<<([^>]*)>>", body) if re.search(r".[-+*/]", note[1].split("=")[0])
        ]
        intervals = calculations(body, unit_words=3, end=len(body), answered=False)
        kept += [
            any(start <= note.start() and note.end() <= end for start, end in intervals) for note in notes
        ]
        plain = re.sub(r"<<[^>]*>>", "", body)
        intervals = calculations(plain, unit_words=3, end=len(plain), answered=False)
        positions = [len(re.sub(r"<<[^>]*>>", "", body[: note.start()])) for note in notes]
        stripped += [any(start < position < end for start, end in intervals) for position in positions]
        answers.append(bool(intervals))
    assert sum(kept) == len(kept) > 1000
    assert sum(stripped) / len(stripped) > 0.98
    assert sum(answers) / len(answers) > 0.98
