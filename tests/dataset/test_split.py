"""Validation membership is a fact about a question's text and nothing else."""

from hashlib import sha256

import pytest

from mirrorpo.dataset.split import bucket, held_out

QUESTIONS = [f"How many are {i} and {i + 1}?" for i in range(5000)]


def test_bucket_is_the_sha256_of_the_text_as_a_fraction() -> None:
    for question in QUESTIONS[:100]:
        assert bucket(question) == pytest.approx(
            int(sha256(question.encode()).hexdigest(), 16) / 2**256, abs=1e-15
        )


def test_bucket_is_uniform() -> None:
    counts = [0] * 10
    for question in QUESTIONS:
        counts[int(bucket(question) * 10)] += 1
    # 500 are expected in each tenth with a standard deviation of 21; 100 is nearly five of them.
    assert all(abs(count - 500) < 100 for count in counts)


@pytest.mark.parametrize("copy", ["  one two\n", "one\r\ntwo", "one\ttwo", "one \u2028 two", "one\u00a0two"])
def test_whitespace_does_not_move_a_question(copy: str) -> None:
    assert bucket(copy) == bucket("one two")


def test_words_do_move_a_question() -> None:
    assert len({bucket(text) for text in ("one two", "onetwo", "two one", "One two")}) == 4


def test_the_largest_hash_stays_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class AllOnes:
        def __init__(self, _: bytes) -> None: ...

        def digest(self) -> bytes:
            return b"\xff" * 32

    monkeypatch.setattr("mirrorpo.dataset.split.sha256", AllOnes)
    assert bucket("any") == 1 - 2**-53


def test_a_fraction_holds_out_that_share_and_larger_fractions_hold_out_more() -> None:
    small, large = ({q for q in QUESTIONS if held_out(q, fraction)} for fraction in (0.1, 0.3))
    assert small < large
    # Binomial standard deviations 21 and 32.
    assert abs(len(small) - 500) < 100
    assert abs(len(large) - 1500) < 150


def test_fraction_zero_holds_out_nothing_even_at_bucket_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirrorpo.dataset.split.bucket", lambda _: 0.0)
    assert not held_out("any", 0.0)
    assert held_out("any", 1e-9)
