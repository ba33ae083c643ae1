"""Settings that datasets share."""

import pytest

from mirrorpo.dataset.settings import check_user, check_validation_fraction


def test_a_user_turn_has_one_place_for_the_question() -> None:
    check_user("Q: {question}")
    for user in ("", "{question} {question}"):
        with pytest.raises(ValueError, match=r"dataset\.user=.*must hold \{question\} once"):
            check_user(user)


def test_a_share_of_held_out_rows_leaves_some() -> None:
    check_validation_fraction(0.0)
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"dataset\.validation_fraction=.* must lie in \[0, 1\)"):
            check_validation_fraction(fraction)
