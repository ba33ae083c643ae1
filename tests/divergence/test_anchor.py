import pytest

from mirrorpo.divergence.anchor import Ema, Fixed, Mixture, Reset, after, begun, moving_parts, of_part, resets


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


def test_resets_are_counted_and_a_number_that_is_none_measures_nothing():
    stalls = Reset(every=4, measure="reward/mean", patience=2, least=0.0)
    counts, memory = [], {}
    for step, value in enumerate([float("nan"), 0.5, float("nan"), 0.4, 0.6, 0.5, 0.5, 0.5], start=1):
        assert begun(memory) == (step > 2)
        _, memory = stalls.after(step, memory, {"reward/mean": value})
        counts.append(resets(memory))
    # By steps after 4 and 8, by the measure after 7.
    assert counts == [{"anchor/resets": count} for count in (0, 0, 0, 1, 1, 1, 2, 3)]
    # A run that was begun without a count has none.
    share, memory = stalls.after(4, {"best": 0.5, "since": 0.0}, {"reward/mean": 0.4})
    assert share == 1 and memory == {} and resets(memory) == {}
    for still in (Ema(decay=0.5, every=1), Fixed(source="reference")):
        assert resets(still.after(1, {}, {})[1]) == {}
    both = moving_parts(
        Mixture(first=stalls, second=Reset(every=1, measure=None, patience=1, least=0.0), share=0.5)
    )
    assert resets(after(both, 1, {}, {})[1]) == {"anchor/resets": 0, "anchor/second/resets": 1}


def test_settings_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"anchor\.decay=1\.5"):
        Ema(decay=1.5, every=1)
    with pytest.raises(ValueError, match=r"anchor\.every=0, measure=null: nothing would reset it"):
        Reset(every=0, measure=None, patience=1, least=0.0)
    with pytest.raises(ValueError, match=r"anchor\.measure=eval/greedy_accuracy: the anchor moves before"):
        Reset(every=5, measure="eval/greedy_accuracy", patience=1, least=0.0)
    with pytest.raises(ValueError, match="patience=0"):
        Reset(every=5, measure=None, patience=0, least=0.0)


def test_a_mixture_has_two_parts_and_at_either_end_one():
    ema = Ema(decay=0.9, every=1)
    start, old = Fixed(source="reference"), Fixed(source="old")
    assert Mixture(first="reference", second=ema, share=0.3).parts == (start, ema)
    assert Mixture(first=ema, second="old", share=0.3).parts == (ema, old)
    for share, part in ((0.0, start), (1.0, ema)):
        assert Mixture(first=start, second=ema, share=share).parts == (part,)
    # Of one part an anchor is itself.
    assert ema.parts == (ema,) and start.share == 0.0


def test_both_parts_of_a_mixture_move_each_by_its_rule_and_remember_apart():
    stalls = Reset(every=0, measure="reward/mean", patience=1, least=0.0)
    slower = Reset(every=0, measure="reward/mean", patience=2, least=0.0)
    moving = moving_parts(Mixture(first=stalls, second=slower, share=0.5))
    assert list(moving) == [0, 1]
    taken, memory = [], {}
    for step, value in enumerate([0.5, 0.4, 0.4, 0.4], start=1):
        shares, memory = after(moving, step, memory, {"reward/mean": value})
        taken.append((shares[0], shares[1]))
    assert taken == [(0, 0), (1, 0), (0, 1), (1, 0)]
    assert of_part({"a": 1, "second/a": 2}, 0) == {"a": 1} and of_part({"a": 1, "second/a": 2}, 1) == {"a": 2}
    # References are counted without the old policy, and those that stand still have no number here.
    ema = Ema(decay=0.5, every=1)
    for first, second, expected in (
        ("old", ema, {0: ema}),
        ("reference", ema, {1: ema}),
        (ema, "old", {0: ema}),
    ):
        assert moving_parts(Mixture(first=first, second=second, share=0.5)) == expected
    assert moving_parts(Fixed(source="reference")) == {} and moving_parts(ema) == {0: ema}


def test_a_mixture_of_nothing_in_particular_is_refused():
    ema = Ema(decay=0.9, every=1)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=rf"anchor\.share={share}"):
            Mixture(first="reference", second=ema, share=share)
    with pytest.raises(ValueError, match=r"both .*reference.*: nothing is mixed"):
        Mixture(first="reference", second="reference", share=0.5)
    with pytest.raises(ValueError, match=r"anchor\.second=ema: a part is one of reference, old, ema, reset"):
        Mixture(first="reference", second="ema", share=0.5)
