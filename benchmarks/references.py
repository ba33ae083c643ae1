"""Every reference of MBPP and HumanEval, and mutations of each: do the tests tell right from wrong?

    MIRRORPO_DATA=/data python benchmarks/references.py

Mutations are of the requested function: `constant` returns the first expected value, taken from the
first test, whatever it is asked; `empty` has no body; `off by one` adds 1 to a number that is returned,
denies a truth value, takes an element from what has some, and otherwise puts the value into a list. A
mutation that passes is one that the tests cannot tell.
"""

import ast
import os
from collections import Counter
from collections.abc import Mapping, Sequence

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from mirrorpo.config.schema import register
from mirrorpo.core.batch import Prompt
from mirrorpo.dataset.mbpp import Mbpp
from mirrorpo.reward.code.code_tests import CodeTests

CONF = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "conf")
OFF_BY_ONE = """

def {name}(*args, _right={name}, **kwargs):
    value = _right(*args, **kwargs)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1
    if isinstance(value, (set, frozenset, dict)) and value:
        return type(value)(list(value.items() if isinstance(value, dict) else value)[1:])
    return value[:-1] if isinstance(value, (list, tuple, str)) and value else [value]
"""


def loaded(dataset: str) -> list[Prompt]:
    """All problems of a dataset, and for MBPP those that are for few-shot prompts too."""
    with initialize_config_dir(CONF, version_base="1.3"):
        data = instantiate(compose("train", [f"dataset={dataset}"]).dataset, _convert_="all")
    return data.numbered(range(1, 975), "test") if isinstance(data, Mbpp) else data.load("test")


def reward() -> CodeTests:
    """The configured reward, on all tests."""
    with initialize_config_dir(CONF, version_base="1.3"):
        return instantiate(compose("train", ["dataset=mbpp", "reward.tests=all"]).reward, _convert_="all")


def mutations(prompt: Prompt) -> Mapping[str, str]:
    """The wrong programs of a problem, by kind."""
    assert prompt.checks is not None
    name, tests = prompt.checks.entry_point, (*prompt.checks.visible, *prompt.checks.hidden)
    source = prompt.checks.prefix + prompt.gold if prompt.checks.prefix else prompt.gold
    out = {
        "empty": f"{source}\n\ndef {name}(*args, **kwargs):\n    pass\n",
        "off by one": source + OFF_BY_ONE.format(name=name),
    }
    constant = first_value(tests[0])
    if constant is not None:
        out["constant"] = f"{source}\n\ndef {name}(*args, **kwargs):\n    return {constant}\n"
    return out


def first_value(test: str) -> str | None:
    """The source of what the first `assert ... == value` expects."""
    for node in ast.walk(ast.parse(test)):
        if (
            isinstance(node, ast.Assert)
            and isinstance(node.test, ast.Compare)
            and isinstance(node.test.ops[0], ast.Eq)
        ):
            return ast.unparse(node.test.comparators[0])
    return None


def report(dataset: str, judge: CodeTests) -> None:
    """Print one dataset's figures."""
    prompts = loaded(dataset)
    faults = judge.unjudgeable(prompts)
    print(f"{dataset}: {len(prompts) - len(faults)} of {len(prompts)} references pass all their tests")
    for uid, fault in faults.items():
        print(f"  {uid}: {fault}")
    sound = [prompt for prompt in prompts if prompt.uid not in faults]
    for kind in ("constant", "empty", "off by one"):
        mutated = [
            (prompt, source) for prompt in sound if (source := mutations(prompt).get(kind)) is not None
        ]
        verdicts = judge([source for _, source in mutated], [prompt for prompt, _ in mutated])
        outcomes = Counter(verdict.outcome for verdict in verdicts)
        passed = [
            prompt.uid for (prompt, _), verdict in zip(mutated, verdicts, strict=True) if verdict.correct
        ]
        print(
            f"  {kind:>10}: {len(mutated) - len(passed)} of {len(mutated)} refused "
            f"({100 * (1 - len(passed) / len(mutated)):.1f}%), {dict(outcomes)}"
        )
        print(f"              not told: {listed(passed)}")


def listed(uids: Sequence[str]) -> str:
    """At most twenty of them."""
    return ", ".join(uids[:20]) + (f" and {len(uids) - 20} more" if len(uids) > 20 else "") or "none"


def main() -> None:
    """Print the figures of all datasets."""
    register()
    judge = reward()
    print(f"mechanism: {judge.mechanism}")
    for dataset in ("mbpp", "mbpp_sanitized", "humaneval"):
        report(dataset, judge)


if __name__ == "__main__":
    main()
