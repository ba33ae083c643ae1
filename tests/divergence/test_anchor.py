import pytest

from mirrorpo.divergence.anchor import Ema, Fixed, Reset


def shares(anchor, values):
    """Of each step, its metric `reward/mean` given, what the anchor takes of the policy."""
    out, memory = [], {}
    for step, value in enumerate(values, start=1):
        metrics = {} if value is None else {"reward/mean": value}
        share, memory = anchor.after(step, memory, metrics)
        out.append(share)
    return out


def test_a_fixed_anchor_takes_nothing_and_has_no_weights_that_move():
    for source in ("reference", "old"):
        anchor = Fixed(source=source)
        assert (anchor.source, anchor.moves) == (source, False) and shares(anchor, [0.0, 1.0]) == [0.0, 0.0]


def test_an_average_takes_its_share_every_so_many_steps():
    assert shares(Ema(decay=0.75, every=2), [0.0] * 5) == [0.0, 0.25, 0.0, 0.25, 0.0]
    assert shares(Ema(decay=1.0, every=1), [0.0] * 3) == [0.0] * 3
    assert shares(Ema(decay=0.0, every=1), [0.0] * 3) == [1.0] * 3


def test_a_reset_by_steps_takes_all():
    assert shares(Reset(every=3, measure=None, patience=1, least=0.0), [0.0] * 7) == [0, 0, 1, 0, 0, 1, 0]


def test_a_reset_by_a_measure_waits_for_so_many_measurements_without_a_rise_and_begins_anew():
    stalls = Reset(every=0, measure="reward/mean", patience=2, least=0.1)
    # A rise of no more than `least`, and a step that measured nothing, are none.
    values = [0.5, 0.7, 0.75, None, 0.6, 0.2, 0.2, 0.2]
    assert shares(stalls, values) == [0, 0, 0, 0, 1, 0, 0, 1]


def test_settings_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"anchor\.decay=1\.5"):
        Ema(decay=1.5, every=1)
    with pytest.raises(ValueError, match=r"anchor\.every=0, measure=null: nothing would reset it"):
        Reset(every=0, measure=None, patience=1, least=0.0)
    with pytest.raises(ValueError, match=r"anchor\.measure=eval/greedy_accuracy: the anchor moves before"):
        Reset(every=5, measure="eval/greedy_accuracy", patience=1, least=0.0)
    with pytest.raises(ValueError, match="patience=0"):
        Reset(every=5, measure=None, patience=0, least=0.0)
