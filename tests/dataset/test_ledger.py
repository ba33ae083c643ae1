import re
from dataclasses import replace

import pytest

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import DeclaresDeciding
from mirrorpo.dataset.ledger import Ledger, asked_letter
from mirrorpo.text.answer_marker import marked_answer

DATA = Ledger(
    data_seed=0,
    letters=8,
    choices=4,
    copies=1,
    distance=0,
    distractors=0,
    validation_size=32,
    test_size=32,
    demonstrations=1,
    short_until=0.0,
    system="",
    user="{question}",
)


def lines_of(prompt: Prompt, letter: str) -> list[str]:
    return re.findall(rf"^{letter} (\d) \+ 0 = \1$", prompt.demonstration, re.MULTILINE)


def test_splits_share_no_question_and_are_the_same_at_every_call():
    questions = [prompt.question for split in ("train", "validation", "test") for prompt in DATA.load(split)]
    assert len(questions) == len(set(questions)) == 28 * 8
    assert DATA.load("train") == DATA.load("train")
    assert DATA.fingerprint("train") != replace(DATA, data_seed=1).fingerprint("train")


def test_every_letter_has_a_line_of_one_of_its_options_and_the_answer_copies_that_of_the_question():
    right = 0
    for prompt in DATA.load("train"):
        digits = {letter: lines_of(prompt, letter) for letter in "abcdefgh"}
        assert all(
            len(digit) == 1 and int(digit[0]) in DATA.options(letter) for letter, digit in digits.items()
        )
        answer = marked_answer(prompt.demonstration)
        assert answer is not None
        assert prompt.demonstration.endswith(f"#### {digits[asked_letter(prompt)][0]}")
        right += prompt.demonstration.endswith(f"#### {prompt.gold}")
    # Of four options, by chance.
    assert 0.1 < right / 160 < 0.4


def test_the_gold_is_an_option_of_the_letter_and_the_same_for_all_its_questions():
    golds = {(asked_letter(prompt), prompt.gold) for prompt in DATA.load("train")}
    assert len(golds) == 8
    assert all(int(gold) in DATA.options(letter) for letter, gold in golds)


def test_the_deciding_spans_are_the_lines_of_the_letter_that_was_asked_for():
    data = replace(DATA, copies=2, distance=3, distractors=2)
    prompt = data.load("train")[0]
    letter, text = asked_letter(prompt), prompt.demonstration
    spans = [text[start:end] for start, end in data.deciding(prompt, text)]
    assert isinstance(data, DeclaresDeciding)
    assert spans == [f"{letter} {digit} + 0 = {digit}" for digit in lines_of(prompt, letter)]
    assert len(spans) == 2 and len(set(spans)) == 1
    assert text.count("wait\n") == 3 and len(re.findall("^old ", text, re.MULTILINE)) == 4
    assert f"old {letter} " in text
    assert data.deciding(prompt, "nothing of it\n####") == []


def test_early_demonstrations_are_short_and_each_has_digits_of_its_own():
    data = replace(DATA, demonstrations=4, short_until=0.5)
    rows = data.load("train")
    assert len(rows) == 640 and len({prompt.uid for prompt in rows}) == 640
    assert [prompt.demonstration.count("\n") for prompt in rows] == [3] * 320 + [8] * 320
    assert rows[0].question == rows[480].question and rows[0].demonstration != rows[480].demonstration
    assert all(lines_of(prompt, asked_letter(prompt)) for prompt in rows)


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("letters", 1, "dataset.letters=1"),
        ("choices", 11, "dataset.choices=11"),
        ("copies", 0, "dataset.copies=0"),
        ("distractors", 9, "dataset.distractors=9"),
        ("distance", -1, "dataset.distance=-1"),
        ("validation_size", 192, "leave none of 224 questions"),
        ("short_until", 1.5, "dataset.short_until=1.5"),
        ("user", "ask", "dataset.user"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting, value, reason):
    with pytest.raises(ValueError, match=reason):
        replace(DATA, **{setting: value})
