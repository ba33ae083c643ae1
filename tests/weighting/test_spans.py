"""Spans in tokens: which tokens belong to one, where they stop, and which are kept."""

import importlib.util
import itertools
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import mirrorpo.model
from mirrorpo.core.batch import Prompt
from mirrorpo.core.span import Span
from mirrorpo.core.token_offsets import Interval, TokenOffsets
from mirrorpo.model.offsets import OffsetFinder
from mirrorpo.reward.math.math_answer import MathAnswer
from mirrorpo.weighting import spans as module
from mirrorpo.weighting.spans import (
    Arithmetic,
    Format,
    Merged,
    Scaffolding,
    Sentences,
    SpanFinder,
    Statements,
    answer_span,
)

ARITHMETIC = Arithmetic(max_spans=5, min_tokens=1, max_tokens=50, max_backslashes=0.3, unit_words=3)
SENTENCES = Sentences(max_spans=20, min_tokens=5, max_tokens=50, max_backslashes=0.3, break_at="line")
LOOSE = Sentences(max_spans=1000, min_tokens=1, max_tokens=1000, max_backslashes=1.0, break_at="line")
STATEMENTS = Statements(max_spans=20, min_tokens=1, max_tokens=50)
FORMAT = Format(max_spans=10, characters="#=-", min_characters=2)
PAPER = Merged(finders=[ARITHMETIC, SENTENCES], max_spans=10)
FINDERS: dict[str, SpanFinder] = {
    "arithmetic": ARITHMETIC,
    "sentences": SENTENCES,
    "paragraphs": Sentences(
        max_spans=20, min_tokens=1, max_tokens=50, max_backslashes=0.3, break_at="blank_line"
    ),
    "statements": STATEMENTS,
    "format": FORMAT,
    "scaffolding": Scaffolding(around=ARITHMETIC, min_tokens=1),
    "paper": PAPER,
    "all": Merged(finders=[FORMAT, STATEMENTS, PAPER], max_spans=100),
}


def cut(text: str, pieces: str = r" ?\w+|\s|[^\w\s]") -> TokenOffsets:
    """A token a word, with an end of sequence that wrote nothing."""
    offsets = [match.span() for match in re.finditer(pieces, text)]
    return TokenOffsets(text=text, offsets=[*offsets, (len(text), len(text))])


def texts(token_offsets: TokenOffsets, spans: list[Span]) -> list[str]:
    """What the tokens of each span wrote."""
    return [
        token_offsets.text[token_offsets.offsets[span.start][0] : token_offsets.offsets[span.end - 1][1]]
        for span in spans
    ]


def found_texts(finder: SpanFinder, text: str) -> list[str]:
    token_offsets = cut(text)
    return [piece.strip() for piece in texts(token_offsets, list(finder(token_offsets)))]


# --- tokens


def test_a_token_belongs_to_a_span_if_it_wrote_any_of_it() -> None:
    token_offsets = TokenOffsets(
        text="So 48/2 = 24.\n", offsets=[(0, 2), (2, 4), (4, 7), (7, 9), (9, 13), (13, 14), (14, 14)]
    )
    assert ARITHMETIC(token_offsets) == [Span(1, 5, "calculation")]


def test_the_tokens_of_a_split_character_all_belong() -> None:
    token_offsets = TokenOffsets(
        text="€3 + €4 = €7",
        offsets=[(0, 1), (0, 1), (0, 2), (2, 5), (5, 6), (5, 7), (7, 10), (10, 11), (10, 11), (10, 12)],
    )
    assert ARITHMETIC(token_offsets) == [Span(0, 10, "calculation")]


def test_a_token_of_two_neighbours_belongs_to_the_earlier() -> None:
    text = "He is in. She is out."
    token_offsets = TokenOffsets(text=text, offsets=[(0, 2), (2, 5), (5, 8), (8, 13), (13, 16), (16, 21)])
    assert texts(token_offsets, list(LOOSE(token_offsets))) == ["He is in. She", " is out."]
    # One token wrote all of the second sentence.
    token_offsets = TokenOffsets(text="He is in. She.", offsets=[(0, 8), (8, 14), (14, 14)])
    assert LOOSE(token_offsets) == [Span(0, 2, "sentence")]


def test_a_dropped_neighbour_takes_no_token() -> None:
    text = "He. She is out."
    token_offsets = TokenOffsets(text=text, offsets=[(0, 7), (7, 10), (10, 15)])
    assert SENTENCES(token_offsets) == []
    assert Sentences(max_spans=9, min_tokens=2, max_tokens=9, max_backslashes=1.0, break_at="line")(
        token_offsets
    ) == [Span(0, 3, "sentence")]


def test_a_token_that_wrote_some_of_the_mark_belongs_to_the_answer() -> None:
    text = "3+4=7\n####7"
    token_offsets = TokenOffsets(text=text, offsets=[(0, 4), (4, 8), (8, 11), (11, 11)])
    assert answer_span(token_offsets) == Span(1, 3, "answer")
    assert ARITHMETIC(token_offsets) == [Span(0, 1, "calculation")]


def test_end_of_sequence_belongs_to_nothing() -> None:
    token_offsets = cut("3 + 4 = 7")
    assert ARITHMETIC(token_offsets) == [Span(0, len(token_offsets.offsets) - 1, "calculation")]
    assert answer_span(cut("#### 7")) == Span(0, 5, "answer")


# --- the answer


@pytest.mark.parametrize("mark", ["#### 72", r"\boxed{72}", r"$\boxed{72}$."])
def test_nothing_in_the_answer_or_behind_it_is_a_span(mark: str) -> None:
    text = f"First 48 / 2 = 24. In all the answer is {mark} Then 48 + 24 = 72. So it goes on and on."
    for finder in (ARITHMETIC, LOOSE, PAPER):
        assert found_texts(finder, text)[0] in ("48 / 2 = 24", "First 48 / 2 = 24.")
        assert len(found_texts(finder, text)) == 1


def test_the_last_mark_ends_the_reasoning() -> None:
    assert found_texts(ARITHMETIC, r"It is 3 + 4 = \boxed{7}, so 7 + 1 = \boxed{8}. No, 9 - 1 = 8") == [
        "7 + 1 ="
    ]
    assert found_texts(ARITHMETIC, "3 + 4 = 7\n#### 7\n7 + 1 = 8\n#### 8") == ["3 + 4 = 7", "7 + 1 = 8"]


def test_without_a_mark_the_whole_completion_is_reasoning() -> None:
    assert answer_span(cut("The answer is 3 + 4 = 7")) is None
    assert found_texts(ARITHMETIC, "The answer is 3 + 4 = 7") == ["3 + 4 = 7"]


def test_spans_stop_at_the_answer_that_the_reward_reads() -> None:
    reward = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
    cases = [
        # a heading is no answer, so the calculation behind it is reasoning
        ("#### Step 1: Eggs\n3 + 4 = 7\n\\boxed{7}", "\\boxed{7}", ["3 + 4 = 7"]),
        ("\\boxed{7}\n#### Step 2: Check 3 + 4 = 7", "\\boxed{7}", []),
        ("3 + 4 = 7\n#### 2. Total Cost", None, ["3 + 4 = 7"]),
        # a draft in thinking is no answer, and what is calculated behind it is reasoning
        ("<think>\\boxed{9}</think>\n3 + 4 = 7\n#### 7", "#### 7", ["3 + 4 = 7"]),
        ("<think>\n3 + 4 = 7, \\boxed{7}</think>", None, ["3 + 4 = 7"]),
    ]
    for text, region, reasoning in cases:
        token_offsets = cut(text, r"\s|[^\s]+?(?=\s|<|\\|$)|<[^>]*>")
        answer = answer_span(token_offsets)
        assert (answer and texts(token_offsets, [answer])) == (region and [region]), text
        calculated = [span.strip() for span in texts(token_offsets, list(ARITHMETIC(token_offsets)))]
        assert [span.removesuffix(",") for span in calculated] == reasoning, text
        prompt = Prompt(uid="q", question="", gold="7", demonstration="")
        assert reward([text], [prompt])[0].strict == (region is not None), text


def test_a_result_in_the_answer_is_left_to_it() -> None:
    token_offsets = cut(r"In total 48 + 24 = \boxed{72}")
    (span,) = ARITHMETIC(token_offsets)
    answer = answer_span(token_offsets)
    assert texts(token_offsets, [span]) == [" 48 + 24 ="]
    assert answer is not None and span.end <= answer.start


def test_source_has_no_marked_answer() -> None:
    assert found_texts(STATEMENTS, "x = 1\n#### part two\ny = '\\boxed{2}'") == ["x = 1", "y = '\\boxed{2}'"]


# --- sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            'It costs $3.50. He said: "Go." Then (he) left...  And?!',
            ["It costs $3.50.", 'He said: "Go."', "Then (he) left...", "And?!"],
        ),
        (
            "Mr. Lee and Mrs. Ray met Dr. No, e.g. at St. Ives. Yes.",
            ["Mr. Lee and Mrs. Ray met Dr. No, e.g. at St. Ives.", "Yes."],
        ),
        ("1. Add them.\n 12. Halve it. 3. Done", ["1. Add them.", "12. Halve it.", "3.", "Done"]),
        (
            "One line\nanother\r\nthird\n\n\nfourth\rfifth",
            ["One line", "another", "third", "fourth", "fifth"],
        ),
        ("**Bold.** Next _one._ Last", ["**Bold.**", "Next _one._", "Last"]),
        ("一つ。二つ！三つ", ["一つ。", "二つ！", "三つ"]),
        ("version 1.2.3 of a.b", ["version 1.2.3 of a.b"]),
        (" \n . \n", ["."]),
        ("", []),
    ],
    ids=repr,
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert found_texts(LOOSE, text) == expected


def test_lines_end_a_sentence_or_only_blank_lines_do() -> None:
    text = "One line\nanother. And\n \nthe last"
    loose: dict[str, Any] = {"max_spans": 9, "min_tokens": 1, "max_tokens": 99, "max_backslashes": 1.0}
    assert found_texts(Sentences(**loose, break_at="line"), text) == [
        "One line",
        "another.",
        "And",
        "the last",
    ]
    assert found_texts(Sentences(**loose, break_at="blank_line"), text) == [
        "One line\nanother.",
        "And",
        "the last",
    ]


# --- filters and caps


def test_only_the_first_spans_are_kept() -> None:
    text = " and ".join(f"{n} + 1 = {n + 1}" for n in range(9))
    assert found_texts(ARITHMETIC, text) == [f"{n} + 1 = {n + 1}" for n in range(5)]


def test_spans_of_too_few_or_too_many_tokens_are_dropped() -> None:
    text = "Yes it is. " + "One more time, " * 13 + "so. Now it is over."
    assert found_texts(SENTENCES, "Yes it is. Now it is over.") == ["Now it is over."]
    assert found_texts(SENTENCES, text) == ["Now it is over."]
    exact = Sentences(max_spans=9, min_tokens=4, max_tokens=5, max_backslashes=1.0, break_at="line")
    assert found_texts(exact, "It is. It is so. It is so now. It is so now too.") == [
        "It is so.",
        "It is so now.",
    ]


def test_latex_is_dropped_by_its_share_of_backslashes() -> None:
    text = r"\a\b\c\d\e \f\g. One \two three four five."
    assert found_texts(LOOSE, text) == [r"\a\b\c\d\e \f\g.", r"One \two three four five."]
    assert found_texts(SENTENCES, text) == [r"One \two three four five."]
    strict = Arithmetic(max_spans=5, min_tokens=1, max_tokens=50, max_backslashes=0.0, unit_words=0)
    assert found_texts(strict, r"3 \times 4 = 12, 3 + 4 = 7") == ["3 + 4 = 7"]


def test_a_sentence_with_a_calculation_is_represented_by_the_calculation() -> None:
    text = (
        "Natalia sold 48 / 2 = 24 clips in May. She sold them to her friends. In all 48 + 24 = 72.\n#### 72"
    )
    token_offsets = cut(text)
    spans = list(PAPER(token_offsets))
    assert [span.kind for span in spans] == ["calculation", "sentence", "calculation"]
    assert [piece.strip() for piece in texts(token_offsets, spans)] == [
        "48 / 2 = 24",
        "She sold them to her friends.",
        "48 + 24 = 72",
    ]


def test_of_all_finders_together_the_first_spans_are_kept() -> None:
    text = "This is the first sentence. " * 8 + "2 + 2 = 4. " * 8
    spans = PAPER(cut(text))
    assert [span.kind for span in spans] == ["sentence"] * 8 + ["calculation"] * 2
    assert Merged(finders=[], max_spans=3)(cut(text)) == []


def test_scaffolding_is_what_stands_around_the_calculations_before_the_answer() -> None:
    calculations = Arithmetic(max_spans=10, min_tokens=1, max_tokens=50, max_backslashes=0.3, unit_words=0)
    text = "Mia has 1 + 1 = 2 cakes.\nMia has 2 * 3 = 6 cakes.\n#### 6"
    assert found_texts(Scaffolding(around=calculations, min_tokens=2), text) == [
        "Mia has",
        "cakes.\nMia has",
        "cakes.",
    ]
    assert found_texts(Scaffolding(around=calculations, min_tokens=4), text) == ["cakes.\nMia has"]
    assert found_texts(Scaffolding(around=calculations, min_tokens=1), "just words") == ["just words"]
    assert found_texts(Scaffolding(around=calculations, min_tokens=1), "1 + 1 = 2") == []


def test_formatting_is_runs_of_its_characters() -> None:
    text = "## Step 1\n---\n3 + 4 = 7 - 0\n====\n#### 7"
    assert found_texts(FORMAT, text) == ["##", "---", "===="]
    assert found_texts(Format(max_spans=99, characters="=-", min_characters=1), text) == [
        "---",
        "=",
        "-",
        "====",
    ]
    assert found_texts(Format(max_spans=9, characters="^-]", min_characters=2), "a]]b^-c--d") == [
        "]]",
        "^-",
        "--",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Merged(finders=[], max_spans=0), "max_spans=0"),
        (lambda: Statements(max_spans=1, min_tokens=0, max_tokens=5), "min_tokens=0"),
        (lambda: Statements(max_spans=1, min_tokens=6, max_tokens=5), "max_tokens=5"),
        (
            lambda: Sentences(max_spans=1, min_tokens=1, max_tokens=5, max_backslashes=1.5, break_at="line"),
            "max_backslashes=1.5",
        ),
        (
            lambda: Arithmetic(max_spans=1, min_tokens=1, max_tokens=5, max_backslashes=0.3, unit_words=-1),
            "unit_words=-1",
        ),
        (lambda: Format(max_spans=1, characters="", min_characters=1), "characters=''"),
        (lambda: Format(max_spans=1, characters="#", min_characters=0), "min_characters=0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# --- any text


PIECES = [
    "3",
    " + ",
    "4",
    " = ",
    "7",
    "12",
    "$",
    "\\times",
    "\\frac{1}{2}",
    "(",
    ")",
    "<<3+4=7>>",
    "####",
    "#### 7",
    "\\boxed{7}",
    "\\boxed{",
    "}",
    "\n",
    "\n\n",
    ". ",
]
PIECES += [
    "apples",
    "Mr. ",
    "日本",
    "😀",
    "é",
    "```python\n",
    "x = 1",
    "if x: y",
    "```",
    "--",
    "==",
    "#",
    "! ",
    "\r",
    "\u2028",
    "\0",
    " ",
]


def any_text() -> SearchStrategy[str]:
    return st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def pieces(text: str, lengths: list[tuple[int, bool]]) -> TokenOffsets:
    """Tokens of these lengths over a text, some sharing a character with the one before."""
    offsets: list[Interval] = []
    start = end = 0
    for length, shares in itertools.chain(lengths, itertools.repeat((3, False))):
        if end == len(text):
            break
        start = max(start, end - (shares and length > 0))
        end = min(max(end, start + length), len(text))
        offsets.append((start, end))
    return TokenOffsets(text=text, offsets=[*offsets, (len(text), len(text))])


def check(finder: SpanFinder, token_offsets: TokenOffsets) -> None:
    found_texts = list(finder(token_offsets))
    assert found_texts == list(finder(token_offsets))
    before = 0
    # The last token is the end of sequence.
    answer = answer_span(token_offsets)
    for span in found_texts:
        assert before <= span.start < span.end < len(token_offsets.offsets)
        assert token_offsets.offsets[span.end - 1][1] > token_offsets.offsets[span.start][0]
        before = span.end
        assert answer is None or span.kind == "statement" or span.end <= answer.start


@pytest.mark.parametrize("name", FINDERS)
@settings(max_examples=60, deadline=None)
@given(text=any_text(), lengths=st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=40))
def test_spans_are_disjoint_in_order_and_inside_for_any_text_and_tokens(
    name: str, text: str, lengths: list[tuple[int, bool]]
) -> None:
    check(FINDERS[name], pieces(text, lengths))


def bpe() -> Any:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["So 48 + 24 = 72 apples.\n#### 72", "日本 if x: return y"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


BPE, TINY = bpe(), AutoTokenizer.from_pretrained(Path(mirrorpo.model.__file__).parent / "tiny")


@settings(max_examples=100, deadline=None)
@given(text=any_text().filter(lambda text: text.isprintable() or text.isascii()))
def test_spans_of_any_text_through_a_byte_level_tokenizer(text: str) -> None:
    token_offsets = OffsetFinder(BPE)([*BPE(text).input_ids, BPE.eos_token_id])
    assert token_offsets.text == text
    for finder in FINDERS.values():
        check(finder, token_offsets)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(1, len(BPE) - 1), max_size=60))
def test_spans_of_any_ids(ids: list[int]) -> None:
    token_offsets = OffsetFinder(BPE)([*ids, BPE.eos_token_id])
    for finder in FINDERS.values():
        check(finder, token_offsets)


def test_the_tiny_models_lines_through_its_own_tokenizer() -> None:
    text = "Sam has 18 + 3 = <<18+3=21>>21 toys.\nSam has 21 - 5 = <<21-5=16>>16 toys.\n#### 16"
    token_offsets = OffsetFinder(TINY)([*TINY(text).input_ids, TINY.eos_token_id])
    spans = list(PAPER(token_offsets))
    assert [piece.strip() for piece in texts(token_offsets, spans)] == [
        "18 + 3 = <<18+3=21>>21",
        "21 - 5 = <<21-5=16>>16",
    ]
    answer = answer_span(token_offsets)
    assert answer is not None and texts(token_offsets, [answer]) == ["#### 16"]
    assert answer.end == len(token_offsets.offsets) - 1


def test_long_texts_end() -> None:
    # Read without the shape checks of the tests, which take longer than the work.
    spec = importlib.util.spec_from_file_location("unchecked", str(module.__file__))
    assert spec is not None and spec.loader is not None
    unchecked = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unchecked)
    pieces = (".", ". ", ".\n", "a. ", "Mr. ", "\n", "\n ", " ", "?!", ".)", "。", "1. ", "1", "日")
    for piece, break_at in itertools.product(pieces, ("line", "blank_line")):
        text = piece * (100_000 // len(piece)) + "x"
        start = time.process_time()
        list(unchecked._sentences(text, break_at))
        assert time.process_time() - start < 1.0, (piece, break_at)
