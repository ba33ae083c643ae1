"""The tree is the map: config files, modules and tests stand opposite each other."""

import ast
import re

import yaml
from cli import ROOT

SRC = ROOT / "src" / "mirrorpo"
CONF = ROOT / "conf"
TESTS = ROOT / "tests"
# Groups with no class of their own: a recipe sets what others build, and Hydra finds its own by scanning.
WITHOUT_CLASS = ("recipe", "hydra")

# Modules whose tests carry another name, because the fact they state does.
# Groups whose classes are given parts of another room: a distance between two policies.
# A group of whose name two rooms have a module.
HOMES = {"entropy": "algo/entropy", "potential": "divergence/potentials"}
TAKES_PARTS_OF = {group: ["mirrorpo.divergence."] for group in ("algo", "trust_region", "potential")}
TESTED_BY = {
    "algo/row": "test_axes.py",
    "__main__": "test_install.py",
    "cli": "test_install.py",
    "config/cell": "config/test_config.py",
    "config/compose": "config/test_config.py",
    "config/identity": "config/test_config.py",
    "config/override_text": "launch/test_arguments.py",
    "config/schema": "config/test_config.py",
    "core/shapes": "conftest.py",
    "core/top": "divergence/test_top.py",
    "divergence/generators": "divergence/test_f_divergence.py",
    "model/anchored": "model/test_reading.py",
    "train/anchoring": "train/test_naive_gradient.py",
    "train/build_object": "train/test_build.py",
    "train/build_penalty": "train/test_build.py",
    "tools/mirror_map_curves": "tools/test_plot_mirror_maps.py",
    "train/entropy": "train/test_naive_gradient.py",
    "dataset/choices": "dataset/test_table.py",
    "dataset/columns": "dataset/test_table.py",
    "dataset/examples": "dataset/test_table.py",
    "dataset/letter_questions": "dataset/test_ledger.py",
    "dataset/gold": "dataset/test_table.py",
    "dataset/row_prompt": "dataset/test_table.py",
    "dataset/sources": "dataset/test_table.py",
    "dataset/stored_rows": "dataset/test_table.py",
    "model/compile_layers": "model/test_compiled.py",
    "core/network": "model/test_load.py",
    "core/protocols": "test_axes.py",
    "launch/errors": "launch/test_hydra_suite.py",
    "train/eval_records": "train/test_eval_sets.py",
    "train/eval_set": "train/test_eval_sets.py",
    "launch/fitness": "launch/test_launcher.py",
    "run/errors": "run/test_disk.py",
    "run/records": "train/test_state.py",
    "train/credit": "train/test_placement.py",
    "core/span": "weighting/test_spans.py",
    "divergence/penalty": "train/test_build.py",
    "divergence/placement": "train/test_placement.py",
    "launch/job_settings": "launch/test_slurm.py",
    "reward/idle_workers": "reward/sandbox/test_pool.py",
    "reward/sandbox/folder": "reward/sandbox/test_siege.py",
    "reward/math/comparison": "reward/math/test_verifier.py",
    "reward/math/evaluation": "reward/math/test_verifier.py",
    "reward/math/gold": "reward/math/test_math_answer.py",
    "reward/math/normal_form": "reward/math/test_math_answer.py",
    "reward/math/number": "reward/math/test_math_answer.py",
    "run/attempt": "train/test_extension.py",
    "run/settings_file": "launch/test_cell_settings.py",
    "run/siblings": "train/test_extension.py",
    "run/unused": "train/test_extension.py",
    "reward/composed": "reward/test_sum.py",
    "reward/plain": "train/test_foreign_parts.py",
    "reward/verifiers": "dataset/test_verifiers.py",
    "text/verifiers_tasks": "dataset/test_verifiers.py",
    "rollout/nucleus": "train/test_build.py",
    "train/loaded": "train/test_trainer.py",
    "train/questions": "train/test_build.py",
    "train/recorder": "train/test_trainer.py",
    "train/step": "train/test_trainer.py",
    "weighting/unscored": "train/test_foreign_parts.py",
    "launch/job": "run/test_preemption.py",
    "launch/local": "launch/test_launcher.py",
    "launch/plan": "launch/test_launcher.py",
    "launch/train": "launch/test_launcher.py",
    "launch/sweep_lock": "launch/test_launches.py",
    "launch/sweeps": "launch/test_status.py",
    "launch/sweeps_path": "launch/test_launcher.py",
    "model/language_model": "model/test_load.py",
    "model/plain": "train/test_architectures.py",
    "config/values": "config/test_config.py",  # names of types
    "model/lora": "model/test_load.py",
    "text/program_parts": "text/test_written_program.py",
    "optim/adamw": "optim/test_optim.py",
    "optim/muon": "optim/test_optim.py",
    "optim/schedule": "optim/test_optim.py",
    "optim/together": "optim/test_optim.py",
    "reward/sandbox/judge": "reward/sandbox/test_judge.py",
    "status": "launch/test_status.py",
    "explain": "launch/test_explain.py",
    "launch/composing": "launch/test_explain.py",
    "launch/fork_server": "launch/test_forked.py",
    "tools/marked_page": "tools/test_estimator_table.py",
    "train/learner": "train/test_naive_gradient.py",
    "train/live_policy": "train/test_naive_gradient.py",
    "train/rescore": "train/test_naive_gradient.py",
    "train/scored": "train/test_naive_gradient.py",
    "train/update_window": "train/test_naive_gradient.py",
}


MOST_LINES = 40


def modules() -> list[str]:
    found = [path for path in SRC.rglob("*.py") if path.stem != "__init__"]
    return sorted(str(path.relative_to(SRC).with_suffix("")) for path in found)


def has_test(module: str) -> bool:
    folder, _, name = module.rpartition("/")
    test = TESTS / folder / f"test_{name}.py"
    return test.is_file() or (TESTS / TESTED_BY.get(module, "nowhere")).is_file()


def test_every_module_has_its_test() -> None:
    untested = [module for module in modules() if not has_test(module)]
    assert not untested, (
        f"write tests/<folder>/test_<module>.py, or say in TESTED_BY where it is tested: {untested}"
    )


def test_every_config_group_is_built_from_its_own_module_and_tested_beside_it() -> None:
    # Either a room of its name, or the one module of its name in a room: conf/spans is weighting/spans.py.
    faults = []
    for group in sorted(
        path.name for path in CONF.iterdir() if path.is_dir() and path.name not in WITHOUT_CLASS
    ):
        prefix = f"mirrorpo.{group}."
        if not (SRC / group).is_dir():
            homes = [module for module in modules() if module.endswith(f"/{group}")]
            homes = [HOMES[group]] if HOMES.get(group) in modules() else homes
            if len(homes) != 1 or not has_test(homes[0]):
                faults.append(f"conf/{group}: wants one tested module of its name, there is {homes}")
                continue
            prefix = f"mirrorpo.{homes[0].replace('/', '.')}."
        elif not (TESTS / group).is_dir():
            faults.append(f"conf/{group}: write tests/{group}/")
        faults += [
            f"conf/{group}/{path.name} builds {target}, which is not of {prefix}*"
            for path in sorted((CONF / group).rglob("*.yaml"))
            for target in targets(yaml.safe_load(path.read_text()))
            if not target.startswith((prefix, *TAKES_PARTS_OF.get(group, ())))
        ]
    assert not faults, "\n".join(faults)


def targets(config: object) -> list[str]:
    """Every class that a config file names, however deep."""
    if isinstance(config, list):
        return [target for item in config for target in targets(item)]
    if not isinstance(config, dict):
        return []
    nested = [target for value in config.values() for target in targets(value)]
    return [*nested, config["_target_"]] if "_target_" in config else nested


def test_the_exceptions_that_are_named_here_exist() -> None:
    assert set(TESTED_BY) <= set(modules()) and all((TESTS / test).is_file() for test in TESTED_BY.values())
    assert all((CONF / group).is_dir() for group in WITHOUT_CLASS)


def test_every_config_file_opens_by_saying_what_it_is() -> None:
    silent = []
    for path in sorted((*CONF.rglob("*.yaml"), *(ROOT / "sweeps").rglob("*.yaml"))):
        first = next(line for line in path.read_text().splitlines() if line != "# @package _global_")
        if not (first.startswith("# ") and len(first) > 10):
            silent.append(str(path.relative_to(ROOT)))
    assert not silent, f"the first line is a comment that says what the file is: {silent}"


def test_every_page_of_docs_has_its_question_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = [
        page
        for section in nav
        for entries in section.values()
        for entry in entries
        for page in entry.values()
    ]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | {"results/README.md"}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages, f"mkdocs.yml, nav: {sorted(set(listed) ^ pages)}"


def test_nothing_is_called_utils() -> None:
    banned = {"utils", "common", "base", "helpers", "manager"}
    names = {path.stem for root in (SRC, CONF, TESTS, ROOT / "analysis") for path in root.rglob("*")}
    assert not names & banned


def test_the_global_seed_function_is_called_in_one_place() -> None:
    calls = re.compile(r"torch\.manual_seed|np\.random\.seed|random\.seed|set_seed")
    outside = [
        path
        for path in SRC.rglob("*.py")
        if path.name != "seeds.py" and any(calls.search(line) for line in path.read_text().splitlines())
    ]
    assert not outside
    # Building a network draws from the global generator, which is forked first.
    assert "with undisturbed():" in (SRC / "core" / "seeds.py").read_text()


def test_train_py_holds_nothing_that_could_change_a_number() -> None:
    # It is no part of a run's code hash.
    tree = ast.parse((ROOT / "train.py").read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert len(ast.unparse(tree).splitlines()) < 15
    assert imported == ["pathlib", "mirrorpo.config", "mirrorpo.launch.train"]


def test_code_has_no_scientific_defaults() -> None:
    # What YAML builds has no default values of its own; the numbers stand in conf/ with their sources.
    for room in ("algo", "divergence", "weighting", "reward", "rollout", "dataset"):
        for path in (SRC / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and any(
                    "dataclass" in ast.unparse(decorator) for decorator in node.decorator_list
                ):
                    for field in node.body:
                        if isinstance(field, ast.AnnAssign) and field.value is not None:
                            if ast.unparse(field).endswith("| None = None"):
                                continue  # a part that need not be there
                            if "init=False" in ast.unparse(field):
                                continue  # no setting: what an object remembers
                            assert "ClassVar" in ast.unparse(field.annotation), (
                                f"{path.name}: {node.name}.{ast.unparse(field)}"
                            )


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, source: list[str]) -> int:
    """Lines of signature and body, without docstrings, comments and empty lines."""
    lines = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(
            inner
        ):
            lines -= set(range(inner.body[0].lineno, (inner.body[0].end_lineno or 0) + 1))
    return sum(
        1 for line in lines if source[line - 1].strip() and not source[line - 1].strip().startswith("#")
    )


def test_code_lines_are_signature_and_body() -> None:
    source = [
        "@cache",
        "def f(",
        "    a,",
        "):",
        '    """Two',
        '    lines."""',
        "",
        "    # why",
        "    return a  # so",
    ]
    (node,) = ast.parse("\n".join(source)).body
    assert isinstance(node, ast.FunctionDef) and code_lines(node, source) == 4


def test_no_function_is_too_long_to_read_at_once() -> None:
    too_long = []
    for path in sorted((*SRC.rglob("*.py"), *(ROOT / "analysis").rglob("*.py"))):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = code_lines(node, text.splitlines())
                if count > MOST_LINES:
                    too_long.append(f"{count} {path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not too_long, f"over {MOST_LINES} lines of code:\n" + "\n".join(sorted(too_long, reverse=True))
