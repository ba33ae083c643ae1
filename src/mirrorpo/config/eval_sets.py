"""The evaluation sets beside a run's own: what each name of `eval_datasets` composes to. Imports no torch."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import cast

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mirrorpo.config.choices import of_choices
from mirrorpo.config.schema import CHOICES, MINIMUM, refuse_evaluation, resolved
from mirrorpo.config.values import Config, JsonObject

# What may differ from set to set, beside its dataset and its reward.
OF_A_SET = (
    "eval_split",
    "eval_questions",
    "eval_max_new_tokens",
    "eval_sampled_questions",
    "eval_samples",
    "eval_temperature",
)
GROUPS = ("dataset", "reward")
# What the run says of every reward and dataset.
SHARED = ("sandbox", "seed")
# A name stands in a metric's, behind `eval/`, where the parts of a reward have theirs.
NAME = re.compile(r"(?!(?:part|unverifiable)$)\w[\w-]*")
IN_TRAIN = "In 'train': "
Entry = tuple[str, Mapping[str, object]]


def eval_sets(
    cfg: DictConfig,
    axes: Mapping[str, str],
    baseline: Config,
    overrides: Sequence[str] = (),
    searchpath: Sequence[str] = (),
) -> dict[str, JsonObject]:
    """Each set's `dataset`, `reward` and settings of evaluation, by its name.

    A set is what `dataset=NAME` composes to with the run's model and algorithm: its recipe, and the reward
    that its file names. What the run itself sets of the evaluation holds for every set; what stands behind a
    name in `eval_datasets` holds for that set.

    Args:
        cfg: of the run, checked.
        axes: the names chosen on the axes.
        baseline: what these compose to with no other setting.
        overrides: of the command line.
        searchpath: `hydra.searchpath`.

    Raises:
        ValueError: naming the set and the setting.
    """
    explicit = {
        key: cfg[key]
        for key in OF_A_SET
        if not OmegaConf.is_interpolation(cfg, key)
        and not OmegaConf.is_missing(cfg, key)
        and (cfg[key] != baseline.get(key) or any(text.startswith(f"{key}=") for text in overrides))
    }
    of_run = {key: cfg[key] for key in SHARED} | explicit
    out: dict[str, JsonObject] = {}
    for name, changes in entries(cfg.eval_datasets):
        if name in out:
            raise ValueError(
                f"eval_datasets: {name} stands there twice; a second one needs a name of its own, as in "
                f"{{{name}_test:{{dataset:{name},eval_split:test}}}}"
            )
        chosen = {group: value for group, value in changes.items() if isinstance(value, str)}
        composed = _composed_set(name, chosen, axes, tuple(searchpath))
        settings = {key: value for key, value in changes.items() if key not in GROUPS or key not in chosen}
        out[name] = _settings(name, composed, of_run | settings)
    return out


def entries(eval_datasets: object) -> list[Entry]:
    """The names of `eval_datasets`, each with what is set for it alone.

    Example:
        >>> entries(["gsm8k", {"math500": {"eval_questions": 100}}])
        [('gsm8k', {}), ('math500', {'eval_questions': 100})]

    Raises:
        ValueError: if it is no list of names.
    """
    plain: object = (
        OmegaConf.to_container(eval_datasets) if OmegaConf.is_config(eval_datasets) else eval_datasets
    )
    if not isinstance(plain, list):
        raise ValueError(
            f"eval_datasets={plain}: give a list of datasets, as in eval_datasets=[gsm8k,math500]"
        )
    return [_entry(item) for item in cast("list[object]", plain)]


def _entry(item: object) -> Entry:
    if isinstance(item, str) and NAME.fullmatch(item):
        return item, {}
    if isinstance(item, Mapping):
        named = cast("Mapping[object, object]", item)
        pairs = list(named.items())
        if len(pairs) == 1 and isinstance(pairs[0][1], Mapping) and NAME.fullmatch(str(pairs[0][0])):
            changes = cast("Mapping[str, object]", pairs[0][1])
            known = (*GROUPS, *OF_A_SET)
            if unknown := [key for key in changes if key.partition(".")[0] not in known]:
                raise ValueError(f"eval_datasets: {pairs[0][0]}.{unknown[0]}: a set has {', '.join(known)}")
            return str(pairs[0][0]), changes
    raise ValueError(
        f"eval_datasets: {item}: give a name, or a name with its settings, as in "
        "eval_datasets=[gsm8k,{math500:{eval_questions:100}}]"
    )


def _composed_set(
    name: str, chosen: Mapping[str, object], axes: Mapping[str, str], searchpath: tuple[str, ...]
) -> DictConfig:
    dataset = str(chosen.get("dataset", name))
    known = GlobalHydra.instance().config_loader().get_group_options("dataset")
    if dataset not in known and not searchpath:
        near = get_close_matches(dataset, known, 3) or known
        raise ValueError(f"eval_datasets: there is no dataset {dataset}; the nearest are {', '.join(near)}")
    reward = chosen.get("reward")
    if reward is None:
        # A model may choose the reward of its answers, but not of those that a dataset has judged otherwise.
        plain = _composed((), searchpath)[1]
        of_dataset = _composed((("dataset", dataset),), searchpath)[1]
        reward = of_dataset if of_dataset != plain else None
    arguments = {**axes, "dataset": dataset} | ({"reward": str(reward)} if reward else {})
    return _composed(tuple(arguments.items()), searchpath)[0].copy()


@cache
def _composed(arguments: tuple[tuple[str, str], ...], searchpath: tuple[str, ...]) -> tuple[DictConfig, str]:
    """What a command line of choices composes to, and the reward that it chooses."""
    try:
        cfg, choices = of_choices(arguments, searchpath)
    except MissingConfigException as error:
        raise ValueError(f"eval_datasets: {str(error).splitlines()[0].removeprefix(IN_TRAIN)}") from error
    return cfg, choices["reward"]


def _settings(name: str, cfg: DictConfig, changes: Mapping[str, object]) -> JsonObject:
    knob = f"eval_datasets: {name}"
    try:
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value, merge=True)
        missing = [key for key in OF_A_SET if OmegaConf.is_missing(cfg, key)]
        if missing:
            raise ValueError(
                f"{knob}: no recipe sets {', '.join(missing)} for it: give "
                f"{{{name}:{{{missing[0]}:...}}}}, or write conf/recipe/{name}.yaml"
            )
        values = resolved(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(f"{knob}: {str(error).splitlines()[0]}") from error
    out = {key: values[key] for key in (*GROUPS, *OF_A_SET)}
    _check(knob, out)
    return out


def _check(knob: str, values: Config) -> None:
    for key in OF_A_SET:
        if key in CHOICES and values[key] not in CHOICES[key]:
            raise ValueError(f"{knob}.{key}={values[key]}: choose one of {', '.join(CHOICES[key])}")
        least = 1 if key == "eval_questions" else MINIMUM.get(key, 0)
        if isinstance(values[key], int) and values[key] < least:
            raise ValueError(f"{knob}.{key}={values[key]}: needs at least {least}")
    refuse_evaluation(values, f"{knob}.")
