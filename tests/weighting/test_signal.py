import pytest
import torch
from worked import RANGE, SPANS, WORKED, Table, batch

from mirrorpo.weighting.signal import Marked, RandomReasoning, Signal


class Silent(Table):
    def __init__(self) -> None:
        super().__init__({})

    def cut(self, *args):
        raise AssertionError("a control that scores nothing must not pay for it")

    importance = cut


class Asked(Silent):
    def importance(self, batch, firsts, signal):
        self.firsts, self.signal, self.rows = firsts, signal, len(batch)
        return torch.arange(batch.present.shape[1]).expand(batch.present.shape).float()


def test_calculations_have_the_largest_weight_other_reasoning_the_least_and_nothing_is_scored():
    weights = Marked(spans=SPANS, range=RANGE)(batch(WORKED), Silent(), 0)[0]
    assert weights.tolist() == [2.0] * 5 + [1.25] + [2.0] * 7 + [1.25] + [1.5] * 7 + [1.0]


def test_random_weights_span_the_whole_range_on_reasoning_and_leave_the_answer_its_own():
    rollout = batch(*[f"{n}+1=2 2*10=20\n#### 20" for n in range(10, 90)])
    weights = RandomReasoning(range=RANGE)(rollout, Silent(), 0)
    inside = weights[:, :15]
    assert (
        float(inside.min()) < 0.55
        and float(inside.max()) > 1.95
        and float(inside.mean()) == pytest.approx(1.25, abs=0.06)
    )
    assert weights[0, 15:].tolist() == [1.5] * 7 + [1.0]
    assert torch.equal(weights, RandomReasoning(range=RANGE)(rollout, Silent(), 0))


@pytest.mark.parametrize(
    "weighting",
    [
        Marked(spans=SPANS, range=RANGE),
        RandomReasoning(range=RANGE),
        Signal(signal="gradient", range=RANGE),
    ],
)
def test_without_a_marked_answer_weights_are_uniform(weighting):
    assert torch.equal(weighting(batch("1+1=2 and on"), Silent(), 0), torch.ones(1, 13))


@pytest.mark.parametrize("signal", ["gradient", "attention"])
def test_a_signal_is_read_behind_the_marks_first_token_of_the_completions_that_have_one_and_mapped(
    signal: str,
):
    scorer = Asked()
    weights = Signal(signal=signal, range=RANGE)(batch("words", WORKED), scorer, 0)
    assert (scorer.firsts, scorer.signal, scorer.rows) == ([15], signal, 1)
    assert torch.equal(weights[0], torch.ones(22))
    assert weights[1, :14].tolist() == pytest.approx([1.25 + 0.75 * place / 13 for place in range(14)])
