"""Settings that come along with a choice, of one value and of several."""

from mirrorpo.launch.along import values_of, with_along, written_in

SWEEPER = {
    "params": {"divergence": "none,kl", "seed": "0,1"},
    "along": {
        "divergence=kl": {"divergence.beta": "0.1,1", "lr": 0.5},
        "divergence=probl2": {"divergence.beta": "choice(2,3)"},
    },
}


def test_a_choice_with_several_values_of_a_setting_makes_a_cell_of_each() -> None:
    along = SWEEPER["along"]
    assert with_along(["divergence=none", "seed=0"], along) == [["divergence=none", "seed=0"]]
    assert with_along(["divergence=kl"], along) == [
        ["divergence=kl", "divergence.beta=0.1", "lr=0.5"],
        ["divergence=kl", "divergence.beta=1", "lr=0.5"],
    ]
    assert with_along(["divergence=kl", "divergence.beta=7"], along) == [
        ["divergence=kl", "divergence.beta=7", "lr=0.5"]
    ]
    two = {"a=1": {"b": "1,2", "c": "range(2)"}}
    assert [cell[1:] for cell in with_along(["a=1"], two)] == [
        ["b=1", "c=0"], ["b=1", "c=1"], ["b=2", "c=0"], ["b=2", "c=1"],
    ]  # fmt: skip
    # A list is one value, and what Hydra cannot read is its to refuse.
    assert values_of("eval_datasets=[a,b]") == ["eval_datasets=[a,b]"] and values_of("a={b") == ["a={b"]


def test_a_recipe_has_the_values_that_make_arms_and_no_single_ones() -> None:
    assert written_in(SWEEPER, ["seed=3"]) == [
        "divergence=none,kl",
        "divergence.beta=0.1,1",
        "divergence.beta=choice(2,3)",
    ]
    assert written_in(SWEEPER, ["divergence.beta=1", "divergence=kl"]) == ["seed=0,1"]
