"""Names under which LaTeX tables and figures print arms; what is typed stays on pages and in files."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from analysis.study.study import Study
from mirrorpo.config.paths import conf

FILE = "display.yaml"
# The section of the file that names settings, beside those of axes.
SETTINGS = "settings"


def display_names(study: Study, extra: Path | None = None) -> dict[str, str]:
    """By label of an arm what is printed for it.

    Args:
        study: whose arms they are.
        extra: a YAML file of the same form as `conf/display.yaml`, which goes before it.

    Raises:
        ValueError: if the file has another form.
    """
    known = _read(conf() / FILE)
    for section, names in (_read(extra) if extra else {}).items():
        known[section] = {**known.get(section, {}), **names}
    choices, settings = known.get(study.design.axis, {}), known.get(SETTINGS, {})
    return {arm: _display(study.design.choices[arm], arm, choices, settings) for arm in study.design.arms}


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        read = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"names={path}: cannot be read ({error})") from error
    if not isinstance(read, dict) or not all(isinstance(names, dict) for names in read.values()):
        raise ValueError(f"names={path}: sections of names wanted, such as divergence: {{kl: KL}}")
    return {str(section): {str(key): str(name) for key, name in read[section].items()} for section in read}


def _display(choice: str, arm: str, choices: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """A choice by its name, and each setting that the arm's label has behind it.

    >>> _display("kl", "kl beta=0.1", {"kl": "KL"}, {"beta": "β"}), _display("js_topk", "js_topk", {}, {})
    ('KL, β = 0.1', 'js topk')
    >>> _display("kl 2", "kl 2 betas=[0.1, 0.2] lr=1", {}, {})
    'kl 2, betas = [0.1, 0.2], lr = 1'
    """
    # A value may hold spaces: a setting begins with its name.
    swept = [text for text in re.split(r" (?=[\w.@/-]+=)", arm.removeprefix(choice)) if text]
    parts = [choices.get(choice, choice.replace("_", " "))]
    for setting in swept:
        key, _, value = setting.partition("=")
        name = settings.get(key, settings.get(key.split(".")[-1], key.replace("_", " ")))
        parts.append(f"{name} = {value}" if value else setting)
    return ", ".join(parts)


def displayed(text: str, names: Mapping[str, str]) -> str:
    """A text of a table with the arms that it ends with, or that follow "from", by their names.

    Example:
        >>> displayed("difference from kl", {"kl": "KL"}), displayed("tiny, kl", {"kl": "KL"})
        ('difference from KL', 'tiny, KL')
    """
    if text in names:
        return names[text]
    for arm in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<=from ){re.escape(arm)}(?![\w=])", lambda _, to=names[arm]: to, text)
        if text.endswith(f", {arm}"):
            return text.removesuffix(arm) + names[arm]
    return text
