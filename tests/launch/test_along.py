"""Settings that come along with a choice, of one value and of several."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mirrorpo.config.override_text import override_of
from mirrorpo.launch.along import refuse_malformed, values_of, with_along, written_in
from mirrorpo.launch.errors import LaunchError

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


@pytest.mark.parametrize(
    "value", [None, True, 0.5, 1e-7, [1, None, "a,b"], [], {"a": None, "b": ["it's", {"c": 1}]}]
)
def test_a_value_of_yaml_is_the_same_value_to_hydra(value: object) -> None:
    override = OverridesParser.create().parse_override(override_of("setting", value))
    assert override.value() == value and not override.is_sweep_override()


def test_null_comes_along_and_is_noted_as_null() -> None:
    assert with_along(["a=1"], {"a=1": {"anchor": None}}) == [["a=1", "anchor=null"]]
    assert written_in({"params": {"anchor": None}}, []) == ["anchor=null"]


def test_an_existing_path_comes_along_as_it_is(tmp_path: Path) -> None:
    policy = tmp_path / "divergence=kl,seed=0"
    policy.mkdir()
    (cell,) = with_along(["a=1"], {"a=1": {"model.path": str(policy)}})
    assert OverridesParser.create().parse_override(cell[-1]).value() == str(policy)


def test_what_no_grid_can_set_is_named_in_a_line() -> None:
    with pytest.raises(LaunchError, match=r"lr=interval\(0,1\): a grid takes no interval; list"):
        with_along(["a=1"], {"a=1": {"lr": "interval(0,1)"}})
    for along, said in (
        ({"divergence=kl": None}, "divergence=kl: None: give each choice its settings"),
        ({"divergence=kl": 3}, "divergence=kl: 3: give each"),
        (["divergence=kl"], "hydra.sweeper.along=.*give each"),
    ):
        with pytest.raises(LaunchError, match=said):
            refuse_malformed(along)


def test_two_choices_that_bring_one_setting_are_refused_where_they_differ() -> None:
    along = {"a=1": {"lr": "1,2"}, "b=1": {"+lr": 3}}
    with pytest.raises(LaunchError, match=r"a=1, which brings lr=1,2, and b=1, which brings \+lr=3; leave"):
        with_along(["a=1", "b=1"], along)
    assert with_along(["a=1", "b=1", "lr=7"], along) == [["a=1", "b=1", "lr=7"]]
    assert with_along(["a=1", "b=2"], along) == [["a=1", "b=2", "lr=1"], ["a=1", "b=2", "lr=2"]]
    same = {"a=1": {"lr": "1,2"}, "b=1": {"lr": "1,2"}}
    assert with_along(["a=1", "b=1"], same) == [["a=1", "b=1", "lr=1"], ["a=1", "b=1", "lr=2"]]
