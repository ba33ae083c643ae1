import pytest

from mirrorpo.core.cut import Cut


@pytest.mark.parametrize(
    "wrong", [{"start": 3, "end": 3}, {"start": -1}, {"first": 3}, {"first": 9, "last": 9}]
)
def test_a_cut_that_hides_or_reads_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a cut"):
        Cut(**{"row": 0, "start": 2, "end": 4, "first": 5, "last": 9} | wrong)
