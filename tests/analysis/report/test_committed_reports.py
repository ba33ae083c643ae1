"""Exports that an older commit made give the tables that lie beside them, byte for byte.

The `truth_*` tables of tiny_credit are of spans that were re-rolled in its run folders; an export has none.
"""

import re
from pathlib import Path

import pytest
from cli import ROOT

from analysis.data.export import DIGESTS, Export, load
from analysis.report.display_names import display_names
from analysis.report.pages import write_tables
from analysis.report.tables import all_tables
from analysis.study.study import study

RESULTS = ROOT / "docs" / "results"


def test_committed_exports_are_what_was_written() -> None:
    folders = [path.parent for path in RESULTS.glob("*/export/export.json")]
    assert len(folders) >= 15
    for export in map(Export.read, folders):
        assert DIGESTS in export.about and not export.edited


@pytest.mark.parametrize("sweep", ["tiny_gbmpo", "tiny_credit"])
def test_the_tables_of_an_old_export_are_the_committed_ones(sweep: str, tmp_path: Path) -> None:
    made_of = study(load(str(RESULTS / sweep / "export")))
    write_tables(all_tables(made_of), tmp_path, display_names(made_of))
    committed = {
        path.name: path.read_text()
        for path in (RESULTS / sweep / "tables").iterdir()
        if not path.name.startswith("truth_")
    }
    made = {path.name: path.read_text() for path in tmp_path.iterdir() if path.suffix != ".html"}
    assert made.keys() == committed.keys()
    for name, text in committed.items():
        assert made[name] == text, name


@pytest.mark.parametrize("sweep", ["tiny_gbmpo", "tiny_credit"])
def test_committed_figures_and_pages_are_whole(sweep: str) -> None:
    folder = RESULTS / sweep / "figures"
    # Of weights there is the picture alone: they are in run folders.
    for path in (path for path in folder.glob("*.png") if path.stem != "weights"):
        for ending in (".pdf", ".svg", "_column.pdf", "_column.svg"):
            assert (folder / f"{path.stem}{ending}").exists(), (path.stem, ending)
        alt = re.search(r"<dc:description>(.*?)</dc:description>", path.with_suffix(".svg").read_text())
        assert alt is not None and re.search(r"\d", alt[1]), path.stem
    page = (RESULTS / sweep / "report.html").read_text()
    targets = set(re.findall(r"\bid=['\"]([^'\"]+)['\"]", page))
    links = set(re.findall(r"<a href='([^']+)'", page))
    assert {link for link in links if not link.startswith("#")} == set()
    assert {link[1:] for link in links} <= targets
