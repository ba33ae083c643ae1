"""From a composed config to objects: what is built, what is refused, what is said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from kernel import needs_any
from omegaconf import open_dict
from rows import CONF, names

from mirrorpo.algo.row import Algorithm
from mirrorpo.config.identity import config_hash
from mirrorpo.config.schema import register, resolved
from mirrorpo.core.batch import Checks, Prompt
from mirrorpo.core.protocols import Dataset, RolloutEngine, SpanWeighting, Verifier
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.model.load import ModelSpec
from mirrorpo.reward.code.code_tests import CodeTests
from mirrorpo.train.build import Components, build_components, inert, notes
from mirrorpo.train.questions import load_questions

ROLES = {
    "algo": Algorithm,
    "penalty": Penalty,
    "weighting": SpanWeighting,
    "model": ModelSpec,
    "dataset": Dataset,
    "reward": Verifier,
    "rollout": RolloutEngine,
    "eval_rollout": RolloutEngine,
}


@cache
def config(*overrides: str) -> Mapping[str, Any]:
    """The resolved config of a command line."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
        with open_dict(cfg):
            del cfg["hydra"]
        return resolved(cfg)


def said(*overrides: str, **changes: Any) -> list[str]:
    data = {**config(*overrides), **changes}
    return notes(build_components(data))


# What is built


@pytest.mark.parametrize("divergence", ["none", "kl", "probl2_exact"])
@pytest.mark.parametrize("algo", names("algo"))
def test_every_algorithm_is_assembled_with(algo: str, divergence: str) -> None:
    # A part is built of its own node, so the node of another composition serves.
    data = {**config(f"algo={algo}"), "divergence": config(f"divergence={divergence}")["divergence"]}
    build_components(data)


@pytest.mark.parametrize("group", ROLES)
def test_a_part_keeps_the_contract_of_its_group(group: str) -> None:
    assert isinstance(getattr(build_components(config()), group), ROLES[group])


def test_the_same_config_gives_equal_parts() -> None:
    assert build_components(config("tracking=none")) == build_components(config("tracking=none"))


def test_values_reach_the_objects() -> None:
    components = build_components(
        config(
            "algo.surrogate.high=0.3", "divergence.beta=0.5", "rollout.rows_at_once=3", "dataset.max_value=12"
        )
    )
    objects: Any = components
    values = (
        objects.algo.surrogate.high,
        objects.penalty.beta,
        objects.rollout.rows_at_once,
        objects.dataset.max_value,
    )
    assert values == (0.3, 0.5, 3, 12)


def test_training_and_evaluation_have_samplers_of_their_own() -> None:
    components: Any = build_components(config("rollout.top_p=0.9"))
    assert (components.rollout.top_p, components.eval_rollout.top_p) == (0.9, 1.0)


def test_objects_get_plain_data() -> None:
    components: Any = build_components(config("model=tiny_scratch", "algo=sft"))
    assert type(components.dataset.habits) is dict and type(components.model.architecture) is dict
    assert type(build_components(config()).optim.betas) is list  # type: ignore[union-attr]


def test_supervised_fine_tuning_samples_nothing_and_has_no_divergence() -> None:
    components = build_components(config("model=tiny_scratch", "algo=sft"))
    assert (type(components.rollout).__name__, type(components.penalty.divergence).__name__) == (
        "Demonstrations",
        "NoDivergence",
    )
    assert type(components.eval_rollout).__name__ == "Native"


def test_no_correction_is_null_and_a_sampler_without_a_dose_is_the_run_before_there_was_one() -> None:
    older = {
        **config(),
        "rollout": {k: v for k, v in config()["rollout"].items() if not k.startswith(("lag", "coarse"))},
    }
    for run in (older, config("importance_correction=none")):
        assert build_components(run) == build_components(config())
        assert config_hash(run) == config_hash(config())
    assert (
        config_hash(config("rollout.lag=1"))
        != config_hash(config())
        != config_hash(config("rollout.coarse=fp8"))
    )
    dosed: Any = build_components(config("rollout.coarse=top_p", "rollout.coarse_value=0.9", "rollout.lag=1"))
    assert dosed.rollout.top_p == 0.9 and dosed.eval_rollout.top_p == 1.0 and dosed.sampler.lag == 1
    assert any("without an importance_correction" in note for note in notes(dosed))


def test_a_run_that_is_older_than_the_correction_has_none_and_a_run_without_it_is_the_same_run() -> None:
    older = {group: value for group, value in config().items() if group != "importance_correction"}
    assert (
        build_components(older) == build_components(config())
        and build_components(older).importance_correction is None
    )
    assert (
        config_hash(older) == config_hash(config()) != config_hash(config("importance_correction=truncated"))
    )


ENTROPIES = {
    "nothing": (("entropy=bonus", "entropy.coefficient=0.0"), ["entropy"]),
    "a gain": (("entropy=bonus",), []),
    "a walk that cannot leave zero": (("entropy=adaptive", "entropy.most=0.0"), ["entropy"]),
    "a walk": (("entropy=adaptive",), []),
    "clip": (("entropy=covariance",), ["entropy.beta"]),
    "kl on-policy": (("entropy=covariance", "entropy.method=kl"), ["entropy.low", "entropy.high", "entropy"]),
    "kl": (
        ("entropy=covariance", "entropy.method=kl", "updates_per_rollout=2"),
        ["entropy.low", "entropy.high"],
    ),
}


def test_an_entropy_control_is_built_says_what_is_inert_and_needs_a_sampler_where_it_reads_samples() -> None:
    older = {group: value for group, value in config().items() if group != "entropy"}
    assert build_components(older) == build_components(config())
    assert config_hash(older) == config_hash(config()) != config_hash(config("entropy=bonus"))
    for name, (overrides, settings) in ENTROPIES.items():
        entries = inert(build_components(config(*overrides)))
        named = [setting for entry in entries for setting in entry.settings if setting.startswith("entropy")]
        assert named == settings, name
    supervised = ("model=tiny_scratch", "algo=sft")
    for overrides, message in (
        (
            ("entropy=bonus", "entropy.estimator=sampled"),
            r"^entropy\.estimator=sampled with rollout=demonstr",
        ),
        (("entropy=covariance",), r"^entropy=covariance with rollout=demonstrations"),
        (("entropy=bonus", "entropy.estimator=exakt"), r"^entropy\.estimator=exakt: choose one of exact"),
        (("entropy=covariance", "entropy.method=topk"), r"^entropy\.method=topk: choose one of clip, kl"),
        (("entropy=adaptive", "entropy.start=2.0"), r"^entropy: entropy: target=0\.2"),
    ):
        with pytest.raises(ValueError, match=message):
            build_components(config(*supervised, *overrides))
    build_components(config(*supervised, "entropy=bonus"))


# What is refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algo.surrogate.low=2.0", r"^algo: algo\.surrogate\.low=2\.0"),
        ("algo.rollout_rule.max_draws=0", r"^algo: algo\.rollout_rule\.max_draws=0"),
        (
            "algo.rollout_rule.max_draws=2",
            r"^algo: algo\.rollout_rule\.max_draws=2 has no effect without dynamic_sampling",
        ),
        ("algo.rollout_rule.overlong_buffer=2.0", r"^algo: algo\.rollout_rule\.overlong_buffer=2.0"),
        ("rollout.rows_at_once=0", r"^rollout: rollout\.rows_at_once=0"),
        ("eval_rollout.top_p=0.0", r"^eval_rollout: .*top_p=0"),
        ("schedule.warmup=1.5", r"^schedule: .*warmup=1\.5"),
        ("schedule.shape=wavy", r"^schedule\.shape=wavy: choose"),
        ("dataset.max_value=9", r"^dataset: dataset\.max_value=9"),
        (
            "model.attention=flash_attention_2 weighting=counterfactual",
            r"^model\.attention=flash_attention_2 with a weighting that hides spans",
        ),
        (
            "weighting=counterfactual weighting.spans.finders.0.max_spans=1.5",
            r"^weighting\.spans\.finders\[0\]\.max_spans=1\.5: give a whole number",
        ),
        (
            "importance_correction=truncated importance_correction.cap=0.5",
            r"^importance_correction: importance_correction\.cap=0\.5",
        ),
        ("rollout.lag=-1", r"^rollout\.lag=-1"),
        ("rollout.lag=1.5", r"^rollout\.lag=1\.5: give a whole number"),
        ("rollout.coarse=int4", r"^rollout\.coarse=int4: choose one of none, bf16, fp8, int8, top_p"),
        ("rollout.coarse=top_p", r"^rollout\.coarse_value=None with rollout\.coarse=top_p"),
        (
            "rollout.lag=2 algo=sft model=tiny_scratch",
            r"^rollout\.lag=2, rollout\.coarse=none with rollout=demonstrations: nothing is sampled",
        ),
        (
            "importance_correction=bounded importance_correction.rule=clip",
            r"\.rule=clip: choose one of truncate, mask",
        ),
        (
            "importance_correction=truncated algo=sft model=tiny_scratch",
            r"^importance_correction=truncated with rollout=demonstrations: nothing was sampled",
        ),
        ("rollout=vllm rollout.memory=1.0", r"^rollout: .*rollout\.memory=1\.0"),
        (
            "rollout=vllm rollout.dtype=float16",
            r"^rollout\.dtype=float16: choose one of auto, float32, bfloat16$",
        ),
        ("rollout=vllm device=cuda:1", r"^device=cuda:1 with rollout=vllm: .*CUDA_VISIBLE_DEVICES=1$"),
        (
            "rollout@eval_rollout=vllm device=cpu eval_rollout.sleep=true",
            r"^eval_rollout\.sleep=true with device=cpu",
        ),
        ("rollout=vllm_server rollout.connections=0", r"^rollout: rollout\.connections=0"),
        ("reward.extraction=lenient", r"^reward\.extraction=lenient: choose one of strict, flexible$"),
    ],
)
def test_a_wrong_value_is_named_with_its_group_and_knob(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_components(config(*override.split()))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracking.mode=sometimes", r"^tracking\.mode=sometimes: choose one of auto, online, offline$"),
        ("dataset.data_seed=many", r"^dataset\.data_seed='many': give a whole number$"),
        ("dataset.max_steps=2.5", r"^dataset\.max_steps=2\.5: give a whole number$"),
        ("dataset.data_seed=true", r"^dataset\.data_seed=True: give a whole number$"),
        ("optim.weight_decay=false", r"^optim\.weight_decay=False: give a number$"),
        ("tracking.project=3", r"^tracking\.project=3: give a text$"),
    ],
)
def test_a_value_that_the_dataclass_does_not_know_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_components(config(override))


def test_a_whole_number_will_do_where_a_real_one_is_asked_for() -> None:
    build_components(config("optim.weight_decay=0", "dataset.distractor_share=1"))


@pytest.mark.parametrize(
    "key",
    [
        "algo.foo",
        "algo.surrogate.foo",
        "divergence.foo",
        "dataset.foo",
        "model.prompt.foo",
        "optim.foo",
        "tracking.foo",
    ],
)
def test_an_unknown_key_is_named_with_its_group(key: str) -> None:
    with pytest.raises(ValueError, match=rf"^{key.split('.')[0]}: .*'foo'"):
        build_components(config(f"+{key}=1"))


@pytest.mark.parametrize(
    "key", ["algo.surrogate.low", "algo.aggregate", "divergence.beta", "dataset.max_value"]
)
def test_a_key_that_was_taken_out_is_named_with_its_group(key: str) -> None:
    group, *_, last = key.split(".")
    with pytest.raises(ValueError, match=rf"^{group}: .*'{last}'"):
        build_components(config(f"~{key}"))


def test_a_class_that_does_not_exist_is_named_with_its_group() -> None:
    with pytest.raises(ValueError, match=r"^divergence: .*mirrorpo\.divergence\.kl\.K9"):
        build_components(config("divergence._target_=mirrorpo.divergence.kl.K9"))


@pytest.mark.parametrize(
    "override",
    [
        ("model=exploit", "dataset.shares.right=2"),
        ("divergence._target_=mirrorpo.divergence.kl.K9",),
        ("dataset._target_=no.Such",),
    ],
)
def test_a_refusal_is_one_line_and_hydra_logs_none_ahead_of_it(
    override: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError) as error:
        build_components(config(*override))
    assert "\n" not in str(error.value) and not caplog.messages


@pytest.mark.parametrize("algo", ["grpo", "dr_grpo", "dapo"])
def test_a_group_of_one_is_refused_where_the_group_is_the_baseline(algo: str) -> None:
    with pytest.raises(ValueError, match=r"^group_size=1: .*use group_size=2 or more$"):
        build_components(config(f"algo={algo}", "group_size=1"))


@pytest.mark.parametrize("algo", ["grpo", "dr_grpo", "dapo"])
def test_a_group_of_two_is_accepted(algo: str) -> None:
    build_components(config(f"algo={algo}", "group_size=2"))


def test_a_group_of_one_is_accepted_where_nothing_is_compared() -> None:
    build_components(config("algo=sft", "group_size=1"))


def test_training_on_what_has_no_training_split_is_refused_before_data_is_read() -> None:
    build_components(config("dataset=humaneval", "steps=0"))
    message = (
        r"steps=3 with dataset=HumanEval: it has no training split and is for evaluation only; use steps=0"
    )
    with pytest.raises(ValueError, match=message):
        build_components(config("dataset=humaneval", "steps=3"))


def test_groups_that_are_too_small_for_an_advantage_are_refused() -> None:
    for algo in ("grpo", "maxrl", "opo"):
        with pytest.raises(ValueError, match=r"^group_size=1: algo\.advantage gives .* zero"):
            build_components({**config(f"algo={algo}"), "group_size": 1})
    wanted = r"^group_size=8 with algo\.advantage\.k=8, baseline=loo: it takes 9 .*; give group_size=9 or"
    with pytest.raises(ValueError, match=wanted):
        build_components(config("algo=pass_at_k", "algo.advantage.k=8", "algo.advantage.baseline=loo"))


def test_an_advantage_without_a_baseline_learns_from_groups_of_one() -> None:
    for algo in ("reinforce", "w_reinforce", "reinforce_pp_kl_in_reward"):
        build_components({**config(f"algo={algo}"), "group_size": 1})


def test_a_tracked_baseline_learns_from_groups_of_one_if_a_rollout_can_be_standardised() -> None:
    for algo in ("spo", "kalman_baseline"):
        build_components({**config(f"algo={algo}"), "group_size": 1, "data_order": "informative"})
    row = config("algo=spo")["algo"]
    dynamic = {**row, "rollout_rule": {**row["rollout_rule"], "dynamic_sampling": True, "max_draws": 3}}
    with pytest.raises(ValueError, match=r"^algo\.rollout_rule\.dynamic_sampling=true with algo\.advantage="):
        build_components({**config("algo=spo"), "algo": dynamic})
    alone = {**config("algo=spo"), "group_size": 1, "prompts_per_step": 1}
    with pytest.raises(ValueError, match=r"^group_size=1: algo\.advantage gives .* zero"):
        build_components(alone)
    with pytest.raises(ValueError, match=r"^data_order=informative: .* use algo=spo or kalman_baseline, or"):
        build_components({**config("algo=grpo"), "data_order": "informative"})


# What is said


@pytest.mark.parametrize("algo", ["rloo", "sft"])
def test_a_plain_policy_gradient_and_supervised_fine_tuning_are_not_said_to_be_inert(algo: str) -> None:
    assert not any("plain policy gradient" in note for note in said(f"algo={algo}"))


@pytest.mark.parametrize("algo", ["grpo", "dr_grpo", "dapo", "gspo", "reinforce_pp", "cispo", "gmpo", "sapo"])
def test_clipping_on_a_single_update_is_said_to_be_inert(algo: str) -> None:
    (note,) = said(f"algo={algo}")
    assert (
        note.startswith("updates_per_rollout=1: ")
        and "algo.ratio and algo.surrogate act as the plain policy gradient" in note
    )


@pytest.mark.parametrize("algo", ["grpo", "dr_grpo", "dapo"])
def test_nothing_is_said_of_clipping_that_acts(algo: str) -> None:
    assert said(f"algo={algo}", updates_per_rollout=2) == []


def test_nothing_is_said_of_clipping_where_there_is_none() -> None:
    assert said("algo=sft") == []


@pytest.mark.parametrize("algo", ["grpo", "rloo", "sft"])
@pytest.mark.parametrize("region", [name for name in names("trust_region") if name != "none"])
def test_a_trust_region_on_a_single_update_is_said_never_to_act(region: str, algo: str) -> None:
    # A part is built of its own node, so the node of another composition serves.
    node = config(f"trust_region={region}")["trust_region"]
    (note,) = [note for note in said(f"algo={algo}", trust_region=node) if "trust_region" in note]
    assert note.startswith("updates_per_rollout=1 with a trust_region (") and note.endswith(
        "2 or more, or trust_region=none"
    )
    assert not [
        note for note in said(f"algo={algo}", trust_region=node, updates_per_rollout=2) if "trust_" in note
    ]


def test_an_entropy_penalty_on_a_single_update_is_said_to_have_no_gradient() -> None:
    held = ("algo=rloo", "entropy=covariance")
    (note,) = said(*held, "entropy.method=kl")
    assert note.startswith("entropy.method=kl with updates_per_rollout=1: ")
    assert said(*held, "entropy.method=kl", updates_per_rollout=2) == said(*held, "entropy.method=clip") == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("divergence=kl_exact",), "noise alone; loss_to_go"),
        (("divergence=kl_topk",), "with divergence.k=64: the sum over so many tokens is the same"),
        (("divergence=js_topk", "divergence.of=policy"), "only the tokens outside it are held"),
    ],
)
def test_a_sum_over_tokens_in_the_reward_is_said_to_be_noise(overrides: Sequence[str], words: str) -> None:
    in_reward = [*overrides, "divergence.placement=reward"]
    (note,) = said(*in_reward, updates_per_rollout=2)
    assert note.startswith("divergence.placement=reward with ") and words in note
    assert said(*in_reward, "divergence.beta=0.0", updates_per_rollout=2)[0].startswith("divergence.beta=0")


@pytest.mark.parametrize("divergence", ["kl_k1", "kl_corrected", "kl_topk divergence.k=0"])
def test_nothing_is_said_of_what_has_a_gradient_in_the_reward(divergence: str) -> None:
    overrides = [*f"divergence={divergence}".split(), "divergence.placement=reward"]
    assert said(*overrides, updates_per_rollout=2) == []


def test_a_cut_sampling_distribution_is_named_with_its_value() -> None:
    (note,) = said("rollout.top_p=0.9", updates_per_rollout=2)
    assert note.startswith("rollout.top_p=0.9: ")


def test_a_cut_distribution_in_evaluation_is_of_no_concern() -> None:
    assert said("eval_rollout.top_p=0.9", updates_per_rollout=2) == []


def test_an_old_anchor_on_a_single_update_is_said_to_be_the_policy_itself() -> None:
    (note,) = [note for note in said("divergence.anchor=old") if "anchor" in note]
    assert note.startswith("updates_per_rollout=1 with divergence.anchor=old: ")
    (note,) = [note for note in said("anchor=old") if "anchor" in note]
    assert note.startswith("updates_per_rollout=1 with anchor=old: ")


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (("anchor=ema", "divergence.anchor=old"), "divergence.anchor=old with anchor=ema: "),
        (("anchor=mixture", "divergence.anchor=old"), "divergence.anchor=old with anchor=mixture: "),
        (("anchor=reference", "divergence.anchor=old"), "divergence.anchor=old with anchor=reference: "),
        (("divergence=none", "anchor=reset"), "anchor=reset with divergence=none: "),
        (("algo=sft", "anchor=ema"), "anchor=ema with divergence=none: "),
    ],
)
def test_an_anchor_that_is_said_twice_or_not_read_is_named(overrides: Sequence[str], start: str) -> None:
    (note,) = [note for note in said(*overrides, updates_per_rollout=2) if "anchor" in note]
    assert note.startswith(start)


@pytest.mark.parametrize(
    "overrides", [("anchor=ema",), ("anchor=old",), ("anchor=old", "divergence.anchor=old")]
)
def test_nothing_is_said_of_an_anchor_that_contradicts_no_other(overrides: Sequence[str]) -> None:
    assert said(*overrides, updates_per_rollout=2) == []


def test_a_mixture_is_built_of_two_anchors_and_at_either_end_is_the_one_that_is_left() -> None:
    data = config("anchor=mixture")
    start, average = (data["anchor"][part] for part in ("first", "second"))

    def built(anchor: Any, **changes: Any) -> Components:
        return build_components({**data, "anchor": anchor, **changes})

    mixed = built({**data["anchor"], "first": "old"})
    assert mixed.penalty.sources == ("old", "reference") and mixed.penalty.share == 0.5
    assert mixed.penalty.reads_old and mixed.penalty.reads_reference
    # Of a mixture the old policy is not all.
    assert notes(mixed) == notes(built(start))
    # The single anchor's own parts: what a step makes of them is the same to the bit.
    for share, single in ((0.0, start), (1.0, average)):
        end, alone = built({**data["anchor"], "share": share}), built(single)
        assert end.penalty == alone.penalty and end.anchor.parts == alone.anchor.parts, single
    with pytest.raises(ValueError, match=r"anchor\.first and anchor\.second are both"):
        built({**data["anchor"], "second": start})
    with pytest.raises(ValueError, match="only a pull to the start model"):
        built(data["anchor"], beta_schedule=config("beta_schedule=matched_drift")["beta_schedule"])


def test_nothing_is_said_of_an_old_anchor_on_several_updates() -> None:
    assert said("divergence.anchor=old", updates_per_rollout=2) == []


def test_a_coefficient_of_zero_is_said_to_cost_for_nothing() -> None:
    (note,) = said("divergence.beta=0.0", updates_per_rollout=2)
    assert note.startswith("divergence.beta=0: ") and "divergence=none is free" in note


def test_nothing_is_said_of_no_divergence() -> None:
    assert said("divergence=none", updates_per_rollout=2) == []


def test_scoring_only_correct_demonstrations_is_said_to_score_none() -> None:
    asked = ("weighting=counterfactual", "weighting.completions=correct")
    (note,) = said("algo=sft", *asked)
    assert note.startswith("weighting.completions=correct with demonstrations: ")
    assert said(*asked, updates_per_rollout=2) == []


def test_a_data_set_of_programs_chooses_its_reward_and_shaping_is_a_choice_of_its_own() -> None:
    for name in ("mbpp", "mbpp_sanitized", "humaneval", "tiny_functions"):
        reward = build_components(config(f"dataset={name}")).reward
        assert isinstance(reward, CodeTests) and reward.shaping is None and reward.sandbox == "required"
    shaped = build_components(
        config("dataset=mbpp", "shaping@reward.shaping=public", "sandbox=unsafe")
    ).reward
    assert (
        isinstance(shaped, CodeTests)
        and shaped.shaping is not None
        and shaped.shaping.copy_penalty == -0.02
        and shaped.sandbox == "unsafe"
    )


@dataclass(frozen=True)
class Rows:
    """Problems of which some are bad."""

    train: Sequence[Prompt]
    asked: Sequence[Prompt]
    system: str = ""
    user: str = "{question}"

    def load(self, split: str) -> Sequence[Prompt]:
        return self.train if split == "train" else self.asked

    def fingerprint(self, split: str) -> str:
        return ""


def problem(uid: str, fault: str = "") -> Prompt:
    checks = Checks(
        entry_point="f", prefix="", setup="", prelude="", visible=[], hidden=["assert f() == 1"], fault=fault
    )
    return Prompt(uid=uid, question="", gold="def f(): return 1", demonstration="", checks=checks)


def test_what_cannot_be_judged_is_left_out_of_training_and_evaluation_by_name() -> None:
    needs_any()
    components = build_components(config("dataset=tiny_functions"))
    rows = Rows(
        [problem("a"), problem("b", "test 1 does not parse")],
        [problem("c", "the reference does not parse"), problem("d"), problem("e")],
    )
    asked = {"eval_split": "validation", "eval_questions": 1}
    components = replace(components, config=asked)
    questions = load_questions(replace(components, dataset=rows))
    assert [prompt.uid for prompt in questions.train] == ["a"]
    assert [prompt.uid for prompt in questions.evaluation] == ["d"]
    assert questions.left_out == {"b": "test 1 does not parse", "c": "the reference does not parse"}
    with pytest.raises(
        ValueError, match="none of 1 problems can be judged, the first one, b, since test 1 does not parse"
    ):
        load_questions(replace(components, dataset=Rows([problem("b", "test 1 does not parse")], [])))


def test_a_gold_that_cannot_be_read_is_left_out_before_the_first_step() -> None:
    def row(uid: str, gold: str) -> Prompt:
        return Prompt(uid=uid, question="", gold=gold, demonstration="")

    components = build_components(config())
    rows = Rows(
        [row("a", "18"), row("b", r"\frac{"), row("c", r"\sqrt{2}")], [row("d", "n/a"), row("e", "12:00")]
    )
    components = replace(components, config={"eval_split": "validation", "eval_questions": 5}, dataset=rows)
    questions = load_questions(components)
    assert [prompt.uid for prompt in [*questions.train, *questions.evaluation]] == ["a", "c", "e"]
    assert questions.left_out == {
        "b": r"its gold '\\frac{' is neither a number nor LaTeX that can be read",
        "d": "it has no gold answer",
    }


def test_reading_thinking_says_that_credit_does_not() -> None:
    plain, reading = (build_components(config(*extra)) for extra in ((), ("reward.thinking=read",)))
    assert not [note for note in notes(plain) if "thinking" in note]
    (note,) = (note for note in notes(reading) if "thinking" in note)
    assert note.startswith("reward.thinking=read: ")


def test_a_verifier_says_its_version_and_what_kept_programs_in() -> None:
    reward = build_components(config()).reward
    assert (reward.version, reward.provenance()) == ("math_answer/2", {"sandbox": None})
    needs_any()
    reward = build_components(config("dataset=tiny_functions")).reward
    assert reward.version.startswith("code_tests/") and "seccomp" in str(reward.provenance()["sandbox"])


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.gradient_checkpointing=true", "gradient_checkpointing=false"),
        ("model.attention=flash_attention_2", "sdpa"),
    ],
)
def test_shared_prompts_are_refused_where_the_model_cannot_share_them(setting: str, named: str) -> None:
    with pytest.raises(ValueError, match=rf"shared_prefix=always with {setting}.*{named}"):
        build_components(config("shared_prefix=always", setting))
    build_components(config("shared_prefix=auto", setting))
