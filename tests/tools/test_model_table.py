"""The table of architectures, and the page that holds it."""

import pytest
from cli import ROOT

from mirrorpo.tools.marked_page import written
from mirrorpo.tools.model_table import COLUMNS, MARKERS, architectures, page

PAGE = ROOT / "docs" / "models.md"
NAMES = list(architectures())


def shown() -> dict[str, str]:
    text = PAGE.read_text()
    table = text[text.index(MARKERS[0]) : text.index(MARKERS[1])]
    return {
        line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")
    }


@pytest.mark.parametrize(
    "names", [NAMES[::10], pytest.param(NAMES, marks=pytest.mark.slow)], ids=["a tenth", "all"]
)
def test_the_page_holds_what_the_command_makes(names: list[str]) -> None:
    held = shown()
    for line in page(names).splitlines()[2:]:
        name = line.split(" | ")[0].removeprefix("| ")
        assert held[name] == line, "run: python -m mirrorpo.tools.model_table --write docs/models.md"


def test_the_page_has_every_architecture_in_order() -> None:
    assert list(shown()) == [COLUMNS[0], *NAMES]


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="the page needs the two lines"):
        written("no markers", "table", MARKERS)
