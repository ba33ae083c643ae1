"""The report of a sweep: one HTML page, and beside it every table and figure as files."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.report.answers_page import NAME, answers_page
from analysis.report.caveats import caveats
from analysis.report.display_names import display_names
from analysis.report.figures import DrawnFigure, draw
from analysis.report.html import document, items, picture, section
from analysis.report.latex import ENDINGS, WIDTHS, latex
from analysis.report.render import markdown, to_html
from analysis.report.sample_answers import samples
from analysis.report.sections import again, findings, head, question, runs
from analysis.report.table_cells import Table
from analysis.report.tables import all_tables
from analysis.study.study import Study

# Each table's figures stand below it, by the beginning of its name; the rest at the end.
BESIDE: Mapping[str, Sequence[str]] = {
    "papers": ("differences",),
    "accuracy": ("differences", "learning_curves", "accuracy_differences", "reward_differences"),
    "sampled": ("length",),
    "matched_drift": ("frontier", "mirror_maps"),
    "importance": ("importance", "weights"),
}


def report(
    study: Study,
    folder: Path,
    name: str,
    *,
    names: Mapping[str, str] | None = None,
    widths: Sequence[str] = WIDTHS,
) -> Path:
    """Write `report.html`, `answers.html`, `tables/` and `figures/` into a folder; the report's path.

    Neither page needs the folder or a network.

    Args:
        study: the runs.
        folder: to write to.
        name: of the sweep.
        names: by label of an arm what LaTeX and figures print for it; those of `conf/display.yaml`.
        widths: of the LaTeX tables and figures that are written, "column" and "page".
    """
    names = display_names(study) if names is None else names
    tables, figures = all_tables(study), draw(study, folder / "figures", names, widths)
    write_tables(tables, folder / "tables", names, widths)
    answers = answers_page(study, name)
    if answers is not None:
        (folder / NAME).write_text(answers, encoding="utf-8")
    body = [
        head(study, name),
        section("asked", "What was asked", question(study, names)),
        section("findings", "Findings", findings(study)),
        section("tables", "Tables and figures", between(tables, figures)),
        section("samples", "Sample answers side by side", samples(study)),
        section("caveats", "Caveats", items(map(html.escape, caveats(study)), kind="caveats")),
        section("again", "How to make this again", again(study)),
        section("runs", "Runs", runs(study)),
    ]
    page = folder / "report.html"
    page.write_text(document(f"{name}: {study.design.axis}", "\n".join(body)))
    return page


def write_tables(
    tables: Sequence[Table], folder: Path, names: Mapping[str, str], widths: Sequence[str] = WIDTHS
) -> None:
    """Each table as LaTeX in some widths, Markdown and HTML, with the runs behind every cell as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        forms = {
            **{f"{ENDINGS[width]}.tex": latex(table, width, names) for width in widths},
            ".md": markdown(table),
            ".html": document(table.title, to_html(table)),
            ".json": table.traced(),
        }
        for ending, text in forms.items():
            (folder / f"{table.name}{ending}").write_text(text)


def between(tables: Sequence[Table], figures: Mapping[str, DrawnFigure]) -> str:
    """The tables in their order on the page, each with its figures below it."""
    parts: list[str] = []
    left = {
        name: picture(name, drawn.page, drawn.column, drawn.caption, drawn.alt)
        for name, drawn in figures.items()
    }
    for table in tables:
        parts.append(to_html(table))
        for prefix, names in BESIDE.items():
            if table.name.startswith(prefix):
                parts += [left.pop(name) for name in names if name in left]
    return "".join([*parts, *left.values()])
