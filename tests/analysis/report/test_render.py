"""The miniature export in LaTeX, Markdown, HTML and text: goldens, and that LaTeX takes them.

The miniature is `planted.write_sweep` with three arms and three seeds, exported. When a golden is to change:
    PYTHONPATH=. python tests/analysis/report/test_render.py
"""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

from analysis.data.export import load
from analysis.report.display_names import display_names
from analysis.report.latex import COLUMN, WIDTHS, document, fitting, latex
from analysis.report.render import markdown, to_html, to_text
from analysis.report.table_cells import Source, Table, TableCell, number
from analysis.report.tables import all_tables
from analysis.study.study import Study, study

HERE = Path(__file__).parent
MINIATURE = HERE / "miniature"
GOLDEN = ("papers_divergence", "accuracy_by_divergence", "matched_drift_divergence")


def miniature() -> Study:
    return study(load(str(MINIATURE / "export")))


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return {table.name: table for table in all_tables(miniature())}


def test_the_latex_of_the_miniature_is_the_golden(tables: dict[str, Table]) -> None:
    for name in GOLDEN:
        assert latex(tables[name]) == (MINIATURE / f"{name}.tex").read_text(), name
    named = latex(tables["accuracy_by_divergence"], COLUMN, display_names(miniature()))
    assert named == (MINIATURE / "accuracy_by_divergence_column.tex").read_text()


def test_every_table_has_balanced_braces_and_a_cell_under_every_head(tables: dict[str, Table]) -> None:
    for table, width in product(tables.values(), WIDTHS):
        kept = len(fitting(table)) if width == COLUMN else len(table.head)
        text = "\n".join(line for line in latex(table, width).splitlines() if not line.startswith("%"))
        bare = re.sub(r"\\[\\{}&%$#_]", "", text)
        assert bare.count("{") == bare.count("}") and text.count(r"\begin") == text.count(r"\end"), table.name
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(rows) == 1 + len(table.rows)
        for line in rows:
            assert len(re.findall(r"(?<!\\)&", line)) in (0, kept - 1), line


def test_one_column_has_the_verdict_and_a_page_has_all(tables: dict[str, Table]) -> None:
    table, names = tables["accuracy_by_divergence"], display_names(miniature())
    column, page = (latex(table, width, names) for width in WIDTHS)
    assert r"\begin{table}[t]" in column and r"\begin{table*}[t]" in page
    for text in (column, page):
        assert "ProbL2" in text and "neural mirror" in text and r"difference\\{}from KL" in text
        assert "probl2" not in text and r"neural\_mirror" not in text and "resizebox" not in text
        assert "verdict" in text and "better" in text
    assert "P(better)" in page and "P(better)" not in column
    # Intervals stand below their values.
    assert r"\begin{tabular}[t]{@{}r@{}}62.5\\{}{\scriptsize [56.3, 68.7]}\end{tabular}" in column
    assert "62.5 {\\scriptsize [56.3, 68.7]}" in page


def test_columns_are_chosen_by_how_their_heads_begin(tables: dict[str, Table]) -> None:
    table = tables["accuracy_by_divergence"]
    chosen = table.with_columns(["verdict", "p", "accuracy"])
    assert list(chosen.head) == ["divergence", "verdict", "p", "accuracy, %"]
    assert [str(cell) for cell in chosen.rows[1]] == [
        str(table.rows[1][table.head.index(head)]) for head in chosen.head
    ]
    for name, why in (("x", "no column"), ("", "more than one column")):
        with pytest.raises(ValueError, match=f"columns={name}: of accuracy_by_divergence {why} begins so"):
            table.with_columns([name])


def test_latex_takes_every_table(tables: dict[str, Table], tmp_path: Path) -> None:
    compiler = next((name for name in ("tectonic", "pdflatex") if shutil.which(name)), None)
    if compiler is None:
        pytest.skip(
            "NO LATEX HERE: that the tables compile was not checked; "
            "apt install texlive-latex-base texlive-latex-recommended, or tectonic"
        )
    strange = Table(
        "strange",
        "50% of a_b & {c} #1 ~ ^ \\ <x> “é” ± − ≥ → β",
        ["a & b", "c_d"],
        [[TableCell("group |")], [TableCell("$x$", "[−1, ∞]", "better"), TableCell("50%", tone="worse")]],
    )
    names = display_names(miniature())
    long = "counterfactual_downstream_sharp"
    wide = Table(
        "wide",
        "A table of two columns",
        ["weighting", "accuracy, %", "difference from uniform", "p", "verdict", "seeds"],
        [[*map(TableCell, (long, "88.7 [85.9, 91.5]", "−12.1", "0.043", "undecided (more questions)", "5"))]],
        ["One sentence of a foot that is longer than a line of one of two columns."],
    )
    made = [latex(table, width, names) for table in [*tables.values(), strange, wide] for width in WIDTHS]
    (tmp_path / "tables.tex").write_text(document(made))
    options = ["-interaction=nonstopmode", "-halt-on-error"] if compiler == "pdflatex" else []
    ran = subprocess.run(
        [compiler, *options, "tables.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert (tmp_path / "tables.pdf").read_bytes().startswith(b"%PDF") and "Overfull" not in ran.stdout


class Parsed(HTMLParser):
    """Balanced tags, the text, and the rows' cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.rows = "", []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1] and ({"td", "th"} & set(self.open)):
            self.rows[-1][-1] += data


def test_html_markdown_and_text_say_the_same_cells(tables: dict[str, Table]) -> None:
    for table in tables.values():
        cells = [[str(cell) for cell in row] for row in table.rows]
        assert Parsed(to_html(table)).rows == [list(table.head), *cells]
        lines = [line for line in markdown(table).splitlines() if line.startswith("| ")][1:]
        shown = [
            [
                re.sub(r"^\*+|\*+(?= |$)", "", cell.strip().replace("&lt;", "<"))
                for cell in re.split(r"(?<!\\)\|", line)[1:-1]
            ]
            for line in lines
        ]
        assert [row[: len(cell)] for row, cell in zip(shown, cells, strict=True)] == cells
        text = to_text(table)
        assert all(cell in text for row in cells for cell in row)


def test_every_cell_with_a_number_of_ours_leads_to_runs_and_a_commit(tables: dict[str, Table]) -> None:
    published = {"published", "published difference"}
    for table in tables.values():
        traced = json.loads(table.traced())
        for cell in traced["cells"]:
            if (
                re.search(r"\d", cell["text"])
                and cell["column"] not in published
                and cell["column"] != "matched drift, nats"
            ):
                assert cell["runs"] and cell["commits"] == ["c0ffee" * 6 + "abcd"], (table.name, cell)
        assert set(traced["runs"]) == {run for cell in traced["cells"] for run in cell["runs"]}
        assert all(entry["place"] and entry["config_hash"] for entry in traced["runs"].values())


def test_a_foot_that_allows_something_stands_in_every_form() -> None:
    table = Table(
        "t",
        "T",
        ["a", "b"],
        [[TableCell("x"), TableCell("1", runs=("r",))]],
        ["First.", "Second."],
        ["Allowed (dirty): r."],
        {"r": Source("c" * 40 + "+", "h", "p")},
    )
    for form in (latex, markdown, to_html, to_text):
        assert "Allowed (dirty): r." in form(table)
    assert (
        "Second." in to_html(table).split("<details")[1] and "Allowed" in to_html(table).split("<details")[0]
    )
    assert (
        "commit ccccccccc+" in latex(table)
        and "commit ccccccccc+" in markdown(table)
        and "Runs" not in markdown(table, trace=False)
    )


def test_a_row_that_does_not_fit_its_head_is_refused() -> None:
    with pytest.raises(AssertionError, match="2 cells under 3 heads"):
        Table("t", "T", ["a", "b", "c"], [[TableCell("1"), TableCell("2")]])


def test_numbers_have_a_true_minus_and_no_minus_nought() -> None:
    assert [number(value) for value in (-1.26, -0.01, float("inf"))] == ["−1.3", "0.0", "∞"]


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, str(HERE.parents[1]))
    from planted import write_sweep

    with tempfile.TemporaryDirectory() as place:
        root = write_sweep(Path(place) / "miniature", arms=("kl", "probl2", "neural_mirror"), seeds=(0, 1, 2))
        load(str(root)).write(MINIATURE / "export")
    about = json.loads((MINIATURE / "export" / "export.json").read_text())
    (MINIATURE / "export" / "export.json").write_text(
        json.dumps(about | {"source": "planted", "time": None, "command": None}, indent=2) + "\n"
    )
    for made in all_tables(miniature()):
        if made.name in GOLDEN:
            (MINIATURE / f"{made.name}.tex").write_text(latex(made))
        if made.name == "accuracy_by_divergence":
            column = latex(made, COLUMN, display_names(miniature()))
            (MINIATURE / f"{made.name}_column.tex").write_text(column)
