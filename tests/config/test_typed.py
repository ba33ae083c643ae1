"""What a command line means by a node, where Hydra's own merge says something else."""

from cli import cell_here

from mirrorpo.config.typed import with_new_keys
from mirrorpo.train.build import build_components

MEAN = "mirrorpo.algo.advantage.GroupMean"
LENGTH = "mirrorpo.algo.aggregate.FixedLength"


def test_another_class_drops_what_it_does_not_take_and_keeps_the_rest() -> None:
    typed = [
        f"algo.advantage={{_target_: {MEAN}}}",
        f"algo.aggregate={{_target_: {LENGTH}, length: 60}}",
        "weighting={_target_: mirrorpo.weighting.uniform.Uniform}",
        "divergence={_target_: mirrorpo.divergence.none.NoDivergence}",
    ]
    cell = cell_here(*with_new_keys(typed))
    assert cell.config["algo"]["advantage"] == {"_target_": MEAN}
    assert cell.config["algo"]["aggregate"] == {"_target_": LENGTH, "length": 60}
    # They belong to the penalty.
    assert cell.config["weighting"]["scope"] == "credit" and "beta" in cell.config["divergence"]
    assert cell.notes == [f"algo.advantage: epsilon, ddof left out, which {MEAN} does not take"]
    build_components(cell.config)


def test_a_setting_that_the_new_class_takes_stays_and_one_that_was_typed_is_never_dropped() -> None:
    batch = "mirrorpo.algo.advantage.GroupMeanBatchStd"
    kept = cell_here(f"algo.advantage._target_={batch}").config["algo"]["advantage"]
    assert kept == {"_target_": batch, "epsilon": 1e-4, "ddof": 1}
    typed = cell_here(f"algo.advantage={{_target_: {MEAN}}}", "algo.advantage.epsilon=3").config["algo"]
    assert typed["advantage"] == {"_target_": MEAN, "epsilon": 3}


def test_an_unexpected_setting_says_how_a_node_is_replaced() -> None:
    config = dict(cell_here().config)
    algo = dict(config["algo"])
    config["algo"] = algo | {"advantage": algo["advantage"] | {"_target_": MEAN}}
    try:
        build_components(config)
    except ValueError as error:
        reason = str(error)
    assert f"algo.advantage has epsilon, ddof, which {MEAN} does not take" in reason
    assert f"algo.advantage={{_target_: {MEAN}}} on the command line drops" in reason


def test_empty_braces_clear_a_node_and_what_is_typed_behind_them_stays() -> None:
    prompt = ("model=qwen", "model.prompt.template={}")
    cleared = cell_here(*prompt)
    assert cleared.config["model"]["prompt"]["template"] == {}
    filled = cell_here(*prompt, "+model.prompt.template.tools=true")
    assert filled.config["model"]["prompt"]["template"] == {"tools": True}
    assert cell_here("model=qwen").config["model"]["prompt"]["template"] == {"enable_thinking": False}
    assert cleared.label != cell_here("model=qwen").label
