"""The word-level tokenizer: lossless on texts of its corpus, the same vocabulary every time."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from transformers import AutoTokenizer

from mirrorpo.dataset.arithmetic import Arithmetic
from mirrorpo.model.words import word_tokenizer

DATA = Arithmetic(
    data_seed=0,
    train_size=60,
    validation_size=20,
    test_size=20,
    min_steps=1,
    max_steps=4,
    max_value=99,
    distractor_share=0.5,
    habits={"careful": 0.25, "distracted": 0.25, "slip": 0.25, "direct": 0.25},
    habits_from=0.0,
    system="",
    user="{question}",
)
TEXTS = [f"{prompt.question}\n{prompt.demonstration}" for prompt in DATA.load("train")]
WORKED = "Sam has 18 + 3 = <<18+3=21>>21 toys.\n#### 21"


def there_and_back(tokenizer: Any, text: str) -> str:
    return tokenizer.decode(tokenizer(text).input_ids)


def rows_per_forward(tokenizer: Any, text: str) -> Sequence[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)


def test_arithmetic_texts_come_back_unchanged() -> None:
    tokenizer = word_tokenizer(TEXTS)
    assert [there_and_back(tokenizer, text) for text in TEXTS] == TEXTS


def test_arithmetic_answers_come_back_unchanged_without_their_special_tokens() -> None:
    tokenizer = word_tokenizer(TEXTS)
    ids = [*tokenizer(WORKED).input_ids, tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == WORKED


def test_held_out_arithmetic_uses_the_words_of_the_training_texts() -> None:
    tokenizer = word_tokenizer(TEXTS)
    held_out = [f"{prompt.question}\n{prompt.demonstration}" for prompt in DATA.load("test")]
    assert [there_and_back(tokenizer, text) for text in held_out] == held_out


def texts() -> SearchStrategy[str]:
    # The underscore is no piece yet: see the test of other characters.
    letters = st.text(alphabet=[c for c in string.printable if c != "_"], max_size=30)
    return letters | st.lists(
        st.sampled_from(["Sam", " has", " ", "18", "+", " - ", "=", "####", "#### ", "<<", ">>", "\n", "."]),
        max_size=20,
    ).map("".join)


@given(text=texts())
def test_every_ascii_text_of_the_corpus_comes_back_unchanged(text: str) -> None:
    assert there_and_back(word_tokenizer([text]), text) == text


@pytest.mark.parametrize("text", ["“two” – three…", "5 €", "a\tb\r\n"])
def test_punctuation_and_spaces_outside_ascii_come_back_unchanged(text: str) -> None:
    assert there_and_back(word_tokenizer([text]), text) == text


@pytest.mark.parametrize("text", ["café", "snake_case", "½ cup", "5² cm", "日本"])
def test_other_characters_of_the_corpus_come_back_unchanged(text: str) -> None:
    assert there_and_back(word_tokenizer([text]), text) == text


def test_the_vocabulary_is_a_function_of_the_set_of_texts() -> None:
    assert word_tokenizer(TEXTS).get_vocab() == word_tokenizer([*TEXTS[::-1], TEXTS[0]]).get_vocab()


def test_special_tokens_come_first() -> None:
    tokenizer = word_tokenizer(TEXTS)
    assert [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id] == [0, 1, 2]


def test_ids_are_consecutive_from_zero() -> None:
    tokenizer = word_tokenizer(TEXTS)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_every_digit_is_known_without_a_corpus() -> None:
    assert rows_per_forward(word_tokenizer([]), "0123456789") == list("0123456789")


def test_a_number_is_read_digit_by_digit() -> None:
    assert rows_per_forward(word_tokenizer(["Sam has 1 toys"]), "Sam has 307 toys") == [
        "Sam",
        " has ",
        "3",
        "0",
        "7",
        " toys",
    ]


def test_the_marks_of_a_worked_answer_are_single_pieces() -> None:
    assert rows_per_forward(word_tokenizer([WORKED]), "3 = <<18+3=21>>21\n#### 21")[1:] == [
        " = ",
        "<<",
        "1",
        "8",
        "+",
        "3",
        "=",
        "2",
        "1",
        ">>",
        "2",
        "1",
        "\n",
        "#### ",
        "2",
        "1",
    ]


def test_a_word_outside_the_corpus_is_unknown_and_its_neighbours_are_not() -> None:
    assert rows_per_forward(word_tokenizer(["Sam has toys"]), "Sam sells toys") == ["Sam", "<unk>", " toys"]


def test_encoding_adds_no_special_tokens() -> None:
    tokenizer = word_tokenizer([WORKED])
    assert not set(tokenizer(WORKED).input_ids) & set(tokenizer.all_special_ids)


def test_an_empty_text_has_no_ids() -> None:
    assert word_tokenizer([WORKED])("").input_ids == []


def test_a_saved_tokenizer_reads_as_before(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(TEXTS)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [loaded(text).input_ids for text in TEXTS] == [tokenizer(text).input_ids for text in TEXTS]


def test_a_saved_tokenizer_writes_as_before(tmp_path: Path) -> None:
    word_tokenizer(TEXTS).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [there_and_back(loaded, text) for text in TEXTS] == TEXTS


def test_a_saved_tokenizer_keeps_its_special_ids(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(TEXTS)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id, loaded.padding_side] == [
        0,
        1,
        2,
        "left",
    ]
