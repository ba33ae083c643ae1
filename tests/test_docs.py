"""The documents are true as far as a machine can tell: links, paths, commands, samples, and short sentences.

A fence in the documents is one of these:

    ```pycon                 a doctest, run here
    ```python                a program, run here in a folder of its own
    ```python title="..."    a file; of docs/tutorial.md it is written and used by test_tutorial.py
    ```bash                  commands: their programs, groups and settings are looked up
    ```text, ```yaml, ...    shown only
"""

import doctest
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from cli import ROOT, environment

from mirrorpo.config.renamed import KEYS
from mirrorpo.config.schema import TrainConfig

DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
# What happened, in the words of the day that it happened on.
HISTORY = {DOCS / "log.md", DOCS / "results" / "README.md"}
PRESENT = [page for page in PAGES if page not in HISTORY]
# What somebody reads who has never seen the project.
NEWCOMERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] + [
    DOCS / f"{name}.md"
    for name in (
        "index", "install", "tutorial", "sweeps", "devices", "divergences", "weightings", "data", "rewards",
        "models", "read_results", "metrics", "resume", "troubleshooting",
    )
]  # fmt: skip
LONGEST_SENTENCE = 30
README_WORDS = 700
FENCE = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Fence:
    """A block of a page: its language, what stands behind it, its text, and the line it opens on."""

    language: str
    options: str
    text: str
    line: int


def fences(page: Path) -> list[Fence]:
    text = page.read_text()
    return [
        Fence(match[2], match[3].strip(), match[4], text.count("\n", 0, match.start()) + 1)
        for match in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its fences and comments."""
    return re.sub(r"<!--.*?-->", "", FENCE.sub("", page.read_text()), flags=re.DOTALL)


def sentences(page: Path) -> Iterator[str]:
    """The sentences of prose, of list items and of table cells; code in backticks is one word."""
    text = re.sub(r"`[^`\n]+`", "CODE", prose(page))
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^\s*(?:[-*]|\d+\.|#+|>)\s+", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(
        r"^\|.*\|$",
        lambda row: "\n\n".join(["", *row[0].strip("|").split("|"), ""]),
        text,
        flags=re.MULTILINE,
    )
    for paragraph in re.split(r"\n\s*\n", text):
        yield from re.split(r"(?<=[.!?])[\"')*_]*\s+", " ".join(paragraph.split()))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fail_with(faults: list[str]) -> None:
    assert not faults, "\n".join(faults)


# ---------------------------------------------------------------- words


def test_the_readme_has_at_most_700_words() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


def test_no_sentence_that_a_newcomer_reads_has_more_than_thirty_words() -> None:
    fail_with(
        [
            f"{name(page)}, {len(sentence.split())} words: {sentence}"
            for page in NEWCOMERS
            for sentence in sentences(page)
            if len(sentence.split()) > LONGEST_SENTENCE
        ]
    )


# ---------------------------------------------------------------- links and paths


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), flags=re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def test_every_relative_link_leads_to_a_file_and_a_heading_that_are_there() -> None:
    faults = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", prose(page))):
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists():
                faults.append(f"{name(page)}: no file {target}")
            elif anchor and anchor not in anchors(file):
                faults.append(f"{name(page)}: no heading {target}")
    fail_with(faults)


def test_links_of_the_site_stay_inside_of_it() -> None:
    # docs/ is also a site, and has what lies in docs/ only.
    fail_with(
        [
            f"{name(page)}: {target} leads out of docs/; name the file in backticks"
            for page in PAGES
            if page.is_relative_to(DOCS)
            for target in re.findall(r"\]\((\.\./[^)\s]+)\)", prose(page))
            if not (page.parent / target.partition("#")[0]).resolve().is_relative_to(DOCS)
        ]
    )


# Plug-ins that a page says how to install.
FROM_ELSEWHERE = ("hydra/sweeper=optuna",)
PLACEHOLDER = re.compile(r"[<>{}…]|[A-Z]{3,}|\.\.\.")


def test_every_path_in_backticks_is_there() -> None:
    tops = "conf|src|tests|benchmarks|analysis|sweeps|docs"
    faults = []
    for page in PRESENT:
        for code in re.findall(r"`([^`\n]+)`", prose(page)):
            path = re.fullmatch(rf"(?:{tops})/[^\s:]*", code)
            if path and not PLACEHOLDER.search(code) and not list(ROOT.glob(code.rstrip("/"))):
                faults.append(f"{name(page)}: no {code}")
    fail_with(faults)


# ---------------------------------------------------------------- commands


def commands(page: Path) -> Iterator[str]:
    """The commands of a page: lines of its fences, and code in backticks, that start one of our programs."""
    lines = [
        line for fence in fences(page) if fence.language in ("", "bash") for line in fence.text.splitlines()
    ]
    for text in [*lines, *re.findall(r"`([^`\n]+)`", prose(page))]:
        # A comment behind a command, and what stands before it.
        bare = re.sub(r"\s{2,}#.*", "", text).strip()
        yield from re.findall(
            r"(?:\.venv/bin/)?(?:python3? (?:train\.py|-m [\w.]+|benchmarks/\w+\.py)|mirrorpo [a-z-]+).*",
            bare,
        )


def programs() -> set[str]:
    """What `mirrorpo` and `python -m analysis` can be followed by."""
    help_text = subprocess.run(
        [sys.executable, "-m", "analysis", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return set(re.findall(r"\w+", " ".join(re.findall(r"\{([^}]*)\}", help_text))))


def unknown_words(words: list[str]) -> Iterator[str]:
    """Overrides of train.py that name no setting, no group, or no file of a group."""
    known = {field.name for field in fields(TrainConfig)} | {
        "sweep",
        "recipe",
        "hydra",
        "spans",
        "lora",
        "shaping",
        "potential",
    }
    for word in words:
        key, equals, value = word.strip("\"'").lstrip("+~").partition("=")
        group = key.partition("@")[0]
        if not equals or PLACEHOLDER.search(key):
            continue
        if group.split(".")[0].split("/")[0] not in known or group.split(".")[0] in KEYS:
            yield f"no setting {key}"
        folder = ROOT / ("sweeps" if group == "sweep" else "conf") / group
        for choice in value.strip("'\"").split(",") if folder.is_dir() else ():
            fits = re.fullmatch(r"\w+", choice) and choice != "null" and not PLACEHOLDER.search(choice)
            if (
                fits
                and not (folder / f"{choice}.yaml").exists()
                and f"{group}={choice}" not in FROM_ELSEWHERE
            ):
                yield f"no {group}={choice}"


def test_every_command_starts_a_program_and_names_settings_that_are_there() -> None:
    faults, analysis = [], programs()
    for page in PRESENT:
        for command in commands(page):
            words = command.split()
            # The tutorial's groups lie beside it.
            own = "--config-dir" in words or page.name in ("tutorial.md", "CONTRIBUTING.md")
            module = words[2] if words[1] == "-m" else ""
            if module and module.partition(".")[0] in ("mirrorpo", "analysis") and not module_exists(module):
                faults.append(f"{name(page)}: no module {module}: {command}")
            if module == "analysis" and len(words) > 3 and not {words[3]} <= analysis | {"--help"}:
                faults.append(f"{name(page)}: no such part of analysis: {command}")
            if words[1].startswith("benchmarks/") and not (ROOT / words[1]).exists():
                faults.append(f"{name(page)}: no {words[1]}")
            if not own and (words[1] == "train.py" or words[:2] == ["mirrorpo", "train"]):
                faults += [f"{name(page)}: {fault}: {command}" for fault in unknown_words(words[2:])]
    fail_with(faults)


def module_exists(module: str) -> bool:
    top = ROOT / "src" if module.startswith("mirrorpo") else ROOT
    path = top / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_every_command_of_mirrorpo_is_one() -> None:
    from mirrorpo.cli import COMMANDS

    fail_with(
        [
            f"{name(page)}: no such command: {command}"
            for page in PRESENT
            for command in commands(page)
            if command.startswith("mirrorpo ")
            # Of several at once each is one; an option is no command.
            and not {*command.split()[1].removesuffix("|...").split("|")}
            <= {*COMMANDS, "--version", "--help"}
        ]
    )


def test_every_target_of_make_is_one() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    wanted = {
        (target, name(page)) for page in PRESENT for target in re.findall(r"`make ([\w-]+)`", prose(page))
    }
    fail_with([f"{page}: no target {target}" for target, page in sorted(wanted) if target not in targets])


# ---------------------------------------------------------------- samples


def pages_with(language: str) -> list[Path]:
    return [page for page in PRESENT if any(f.language == language and not f.options for f in fences(page))]


@pytest.mark.parametrize("page", pages_with("pycon"), ids=name)
def test_what_a_page_shows_of_python_is_what_python_shows(page: Path) -> None:
    text = "\n".join(fence.text for fence in fences(page) if fence.language == "pycon")
    case = doctest.DocTestParser().get_doctest(text, {}, name(page), str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    printed: list[str] = []
    assert runner.run(case, out=printed.append).failed == 0, "".join(printed)


@pytest.mark.parametrize("page", pages_with("python"), ids=name)
def test_the_programs_of_a_page_run(page: Path, tmp_path: Path) -> None:
    code = "\n".join(fence.text for fence in fences(page) if fence.language == "python" and not fence.options)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_readmes_figure_comes_out_of_its_command(tmp_path: Path) -> None:
    path = ROOT / "benchmarks" / "readme_figure.py"
    spec = importlib.util.spec_from_file_location("readme_figure", path)
    assert spec is not None and spec.loader is not None
    figure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figure)
    figure.main(["--out", str(tmp_path / "curves.svg")])
    made, shipped = (tmp_path / "curves.svg").read_text(), (DOCS / "learning_curves.svg").read_text()
    # Other versions of matplotlib draw the same numbers in other bytes.
    assert made.count("<path") == shipped.count("<path")
    assert "docs/learning_curves.svg" in (ROOT / "README.md").read_text()
