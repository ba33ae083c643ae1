"""Tables as LaTeX (booktabs): as wide as a page of two columns, or compact, as wide as one of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.report.display_names import displayed
from analysis.report.table_cells import Table, TableCell

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "→": r"$\rightarrow$",
    "—": "---",
    "–": "--",
    "…": r"\dots{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "β": r"$\beta$",
    "τ": r"$\tau$",
    "é": r"\'e",
    "“": "``",
    "”": "''",
    "’": "'",
    "·": r"$\cdot$",
}
TONES = {"better": "\\textbf{%s}", "worse": "\\textit{%s}", "quiet": "%s", "": "%s"}
SHORT = 9
COLUMN, PAGE = "column", "page"
WIDTHS = (COLUMN, PAGE)
# Of the files of a width, behind a table's name or a figure's.
ENDINGS: Mapping[str, str] = {COLUMN: "_column", PAGE: ""}
# Points: the narrowest column and page of usual two-column classes, and the gap beside a cell.
POINTS: Mapping[str, float] = {COLUMN: 229.0, PAGE: 480.0}
GAP: Mapping[str, float] = {COLUMN: 2.5, PAGE: 4.0}
# Points: of \footnotesize, and of \scriptsize, which intervals are in.
TYPE, SMALL = 8.0, 7.0
# Widths of letters in Computer Modern, as shares of the size of type; of all others 0.55.
LETTERS: Mapping[str, float] = {
    **dict.fromkeys("[](),.;:'!|ijlt f", 0.33),
    **dict.fromkeys("mwMW%—−+=", 0.85),
    **dict.fromkeys("ABCDEFGHKLNOPQRSTUVXYZ", 0.75),
}
# Letters of a line in a head or a stacked cell, and in the first column.
LINE, FIRST_LINE = 11, 16
# What one column does without, by the beginning of a head.
LEFT_OUT = ("for new", "P(better)", "seeds", "commit", "published lies")
VERDICT = "verdict"


def latex(table: Table, width: str = PAGE, names: Mapping[str, str] | None = None) -> str:
    r"""A float for `\usepackage{booktabs,graphicx}`, at its true size of type.

    Better is bold, worse italic; comments behind each row name its runs and commits.

    Args:
        table: what to write.
        width: "page", a `table*` with all columns; or "column", a `table` with those that fit one column,
            intervals below their values and the first sentence of the foot.
        names: by label of an arm what is printed for it.
    """
    shown = _named(table, names or {})
    kept = fitting(shown) if width == COLUMN else list(range(len(shown.head)))
    stacked = width == COLUMN or _width(shown, kept, stacked=False) > POINTS[PAGE]
    scaled = width == PAGE and _width(shown, kept, stacked=True) > POINTS[PAGE]
    environment = "table*" if width == PAGE else "table"
    label = re.sub(r"[^a-z0-9]+", "-", table.name.lower()) + ("-column" if width == COLUMN else "")
    lines = [
        f"% {table.title}".replace("\n", " "),
        "% made by python -m analysis; do not edit",
        rf"\begin{{{environment}}}[t]",
        r"\centering",
        rf"\caption{{{escaped(shown.title)}}}",
        rf"\label{{tab:{label}}}",
        r"\footnotesize",
        rf"\setlength{{\tabcolsep}}{{{GAP[width]:g}pt}}",
        # Only a table that no page holds is scaled.
        *([r"\resizebox{\linewidth}{!}{%"] if scaled else []),
        rf"\begin{{tabular}}{{@{{}}l{'r' * (len(kept) - 1)}@{{}}}}",
        r"\toprule",
        " & ".join(_head(shown.head[place], place == 0) for place in kept) + r" \\",
        r"\midrule",
        *_rows(table, shown, kept, stacked),
        r"\bottomrule",
        r"\end{tabular}" + ("}" if scaled else ""),
        *_foot(shown, width),
    ]
    return "\n".join([*lines, rf"\end{{{environment}}}", ""])


def _named(table: Table, names: Mapping[str, str]) -> Table:
    """The table with arms by the names that are printed."""
    rows = [[replace(row[0], text=displayed(row[0].text, names)), *row[1:]] for row in table.rows]
    head, foot = ([displayed(text, names) for text in texts] for texts in (table.head, table.foot))
    return replace(table, head=head, foot=foot, title=displayed(table.title, names), rows=rows)


def _rows(table: Table, shown: Table, kept: Sequence[int], stacked: bool) -> list[str]:
    lines: list[str] = []
    for index, row in enumerate(shown.rows):
        if len(row) == 1:
            text = rf"\multicolumn{{{len(kept)}}}{{@{{}}l@{{}}}}{{\textit{{{escaped(row[0].text)}}}}} \\"
            lines += [*([r"\addlinespace"] if index else []), text]
            continue
        lines.append(" & ".join(_cell(row[place], place == 0, stacked) for place in kept) + r" \\")
        runs = tuple(dict.fromkeys(run for cell in row for run in cell.runs))
        if runs:
            commits = [
                commit[:SHORT] + ("+" if commit.endswith("+") else "") for commit in table.commits(runs)
            ]
            lines.append(f"%   runs {' '.join(runs)}; commit {' '.join(commits)}")
    return lines


def short_commits(table: Table, runs: Sequence[str]) -> list[str]:
    """The commits of some of a table's runs, nine letters of each."""
    return [commit[:SHORT] + ("+" if commit.endswith("+") else "") for commit in table.commits(runs)]


def _foot(table: Table, width: str) -> list[str]:
    below = [*(table.foot[:1] if width == COLUMN else table.foot), *table.notes]
    if not below:
        return []
    size = r"\scriptsize" if width == COLUMN else r"\footnotesize"
    texts = [escaped(text) + r"\par" for text in below]
    return [r"\par\smallskip", rf"\begin{{minipage}}{{\linewidth}}{size}", *texts, r"\end{minipage}"]


def fitting(table: Table) -> list[int]:
    """The columns that one column of a page holds, its intervals below their values: verdicts go first."""
    places = [place for place, head in enumerate(table.head) if not head.startswith(LEFT_OUT)]
    kept = [0, *(place for place in places if table.head[place] == VERDICT)]
    for place in places:
        wanted = sorted({*kept, place})
        if place not in kept and _width(table, wanted, stacked=True, gap=GAP[COLUMN]) <= POINTS[COLUMN]:
            kept = wanted
    return sorted(kept)


def _width(table: Table, places: Sequence[int], *, stacked: bool, gap: float = GAP[PAGE]) -> float:
    """Some columns' width in points, estimated by their longest lines."""
    rows = [row for row in table.rows if len(row) > 1]
    total = 2 * gap * (len(places) - 1)
    for place in places:
        lines = [_points(line) for line in _lines(table.head[place], place == 0)]
        for cell in (row[place] for row in rows):
            lines += _cell_widths(cell, place == 0, stacked)
        total += max(lines)
    return total


def _cell_widths(cell: TableCell, first: bool, stacked: bool) -> list[float]:
    if not stacked or _short(cell):
        return [_points(f"{cell.text} " if cell.detail else cell.text) + _points(cell.detail, SMALL)]
    texts, details = _lines(cell.text, first), _lines(cell.detail, first, interval=True)
    return [*map(_points, texts), *(_points(line, SMALL) for line in details)]


def _points(text: str, size: float = TYPE) -> float:
    return size * sum(LETTERS.get(letter, 0.55) for letter in text)


def _short(cell: TableCell) -> bool:
    """Whether value and detail stand on one line even where others are below each other."""
    return len(cell.text) + len(cell.detail) < LINE


def _lines(text: str, first: bool, interval: bool = False) -> list[str]:
    """A text in lines of so many letters; an interval stays in one."""
    if interval and text.startswith("["):
        return [text]
    lines: list[str] = []
    for part in text.split(" "):
        if lines and len(lines[-1]) + 1 + len(part) <= (FIRST_LINE if first else LINE):
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return lines


def _head(text: str, first: bool) -> str:
    return _stack([escaped(line) for line in _lines(text, first)], "l" if first else "r", "b")


def _cell(cell: TableCell, first: bool, stacked: bool) -> str:
    tone = TONES[cell.tone]
    detail = rf"{{\scriptsize {escaped(cell.detail)}}}"
    if not stacked or _short(cell):
        text = tone % escaped(cell.text)
        return f"{text} {detail}" if cell.detail else text
    lines = [tone % escaped(line) if line else "" for line in _lines(cell.text, first)]
    if cell.detail:
        lines += [rf"{{\scriptsize {escaped(line)}}}" for line in _lines(cell.detail, first, interval=True)]
    return _stack(lines, "l" if first else "r", "t")


def _stack(lines: Sequence[str], side: str, place: str) -> str:
    """Lines below each other inside a cell; brackets at a line's beginning are no option of its break."""
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}" + r"\\{}".join(lines) + r"\end{tabular}"


def escaped(text: str) -> str:
    """A text with LaTeX's characters written out."""
    return "".join(SPECIAL.get(character, character) for character in text)


def document(tables: Sequence[str]) -> str:
    """A two-column LaTeX document around tables, to look at or to test."""
    head = [
        r"\documentclass[twocolumn,10pt]{article}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage{booktabs,graphicx}",
        # The column of a usual conference style.
        r"\usepackage[letterpaper,textwidth=6.75in,textheight=9in,columnsep=0.25in]{geometry}",
    ]
    # A float a page, so that each is looked at where it would stand.
    body = [part for table in tables for part in (table, r"\clearpage")]
    return "\n".join([*head, r"\begin{document}", *body, r"\end{document}", ""])
