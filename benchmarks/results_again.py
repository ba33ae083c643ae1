"""Make docs/results again from the exports that lie in it: tables, figures and reports.

python benchmarks/results_again.py [SWEEP ...]

An export has neither what was re-rolled of a run nor the weights of its tokens: those tables and that figure
are kept as they were, their LaTeX written out anew.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from analysis.data.export import load  # noqa: E402
from analysis.report.display_names import display_names  # noqa: E402
from analysis.report.latex import ENDINGS, WIDTHS, latex  # noqa: E402
from analysis.report.pages import report  # noqa: E402
from analysis.report.sections import named  # noqa: E402
from analysis.report.table_cells import Source, Table, TableCell  # noqa: E402
from analysis.study.study import study  # noqa: E402

RESULTS = ROOT / "docs" / "results"
# The papers' twins, of which every form is kept, and sweeps whose page, Markdown and JSON are.
TWINS = ("tiny_gbmpo", "tiny_credit")
OTHERS = (
    "ledger_credit",
    "ledger_confirm",
    "tiny_placement",
    "tiny_staleness",
    "tiny_overoptimisation",
    "tiny_kl_estimators",
)
# Figures that are kept of the others too, by how their files begin.
OTHER_FIGURES = "over_optimisation"
# Where the runs of tiny_gbmpo_learned read the map that was found.
MAP = Path("outputs/tiny_gbmpo_es/es/map.json")
# area.md is what `python -m analysis area` prints.
KEPT_TABLES, KEPT_FIGURES = ("truth_", "area."), ("weights",)
# Of every table and figure; the tables' pages and answers.html are not kept.
FORMS = (".md", ".tex", ".json", ".png", ".svg", ".pdf")
OTHER_FORMS = (".md", ".json")


def main() -> None:
    """Write the sweeps that are named, or all."""
    sweeps = sys.argv[1:] or (*TWINS, *OTHERS)
    with tempfile.TemporaryDirectory() as place:
        # All are made before one is written, so that the pages name a commit from which nothing differs.
        folders = {sweep: made(sweep, Path(place) / sweep) for sweep in sweeps}
        for sweep, folder in folders.items():
            old = RESULTS / sweep / "report.html"
            page = with_kept(folder / "report.html", old.read_text() if old.exists() else "")
            for kind in ("tables", "figures") if sweep in TWINS else ("tables",):
                forms = FORMS if sweep in TWINS else OTHER_FORMS
                replace_files(folder / kind, RESULTS / sweep / kind, forms)
            if sweep in OTHERS and any((folder / "figures").glob(f"{OTHER_FIGURES}*")):
                replace_files(folder / "figures", RESULTS / sweep / "figures", FORMS, OTHER_FIGURES)
            (RESULTS / sweep / "report.html").write_text(page)
            if sweep in TWINS:
                rewrite_kept(RESULTS / sweep / "tables")
            print(RESULTS / sweep)


def rewrite_kept(tables: Path) -> None:
    """The LaTeX of the tables that are kept."""
    for path in sorted(path for path in tables.glob("*.json") if path.name.startswith(KEPT_TABLES)):
        for width in WIDTHS:
            path.with_name(f"{path.stem}{ENDINGS[width]}.tex").write_text(latex(table_of(path), width))


def made(sweep: str, place: Path) -> Path:
    """The report of a sweep's export, made in another folder as if from the root of the repository."""
    place.mkdir()
    (place / "docs").symlink_to(ROOT / "docs")
    (place / MAP).parent.mkdir(parents=True)
    shutil.copy(RESULTS / "tiny_gbmpo" / "map.json", place / MAP)
    source = f"docs/results/{sweep}/export"
    # The page names its command.
    sys.argv = ["analysis", "report", source]
    os.chdir(place)
    export = load(source)
    made_of = study(export)
    report(made_of, place / "report", named(source, export), names=display_names(made_of))
    os.chdir(ROOT)
    return place / "report"


def with_kept(page: Path, old: str) -> str:
    """The new page with the tables and figures that only run folders have, as the old one shows them."""
    text, end = page.read_text(), "</section>\n<section id='samples'>"
    kept = [
        figure
        for figure in re.findall(r"<figure class='[^']*' id='[^']*'>.*?</figure>\n", old, re.DOTALL)
        if re.search(rf"id='({'|'.join(map(re.escape, (*KEPT_TABLES, *KEPT_FIGURES)))})", figure[:200])
        and figure.split(">")[0] not in text
    ]
    # An older page has pictures of a fixed width, which no phone holds.
    kept = [re.sub(r"style='width: \d+px'", "style='max-width: 100%; height: auto'", each) for each in kept]
    assert text.count(end) == 1, f"{page}: where its tables end is not clear"
    # answers.html is not committed.
    text = re.sub(r"<a href='answers\.html[^>]*>(.*?)</a>", r"\1", text)
    return text.replace(end, "".join(kept) + end)


def replace_files(new: Path, old: Path, forms: Sequence[str], begins: str = "") -> None:
    """The files of one folder, of some forms and names, in place of another's; those that are kept stay."""
    old.mkdir(exist_ok=True)
    for path in old.iterdir():
        if not path.name.startswith(KEPT_TABLES) and path.stem not in KEPT_FIGURES:
            path.unlink()
    for path in new.iterdir():
        if path.suffix in forms and path.name.startswith(begins):
            shutil.copy(path, old / path.name)


def table_of(path: Path) -> Table:
    """A table as its JSON and its Markdown have it."""
    traced = json.loads(path.read_text())
    heads = list(dict.fromkeys(cell["column"] for cell in traced["cells"]))
    cells = [
        TableCell(text, f"[{detail}" if detail else "", runs=tuple(cell["runs"]))
        for cell in traced["cells"]
        for text, _, detail in [cell["text"].partition(" [")]
    ]
    rows = [cells[start : start + len(heads)] for start in range(0, len(cells), len(heads))]
    lines = path.with_suffix(".md").read_text().split("<details>")[0].splitlines()
    foot = [line.strip() for line in lines[1:] if line.strip() and not line.startswith("|")]
    sources = {name: Source(**source) for name, source in traced["runs"].items()}
    return Table(traced["table"], lines[0].strip("*"), heads, rows, foot, (), sources)


if __name__ == "__main__":
    main()
