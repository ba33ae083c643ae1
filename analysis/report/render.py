"""A table as LaTeX (booktabs), Markdown, HTML and text; what each says is the same."""

import html
import re
from collections.abc import Sequence

from analysis.report.html import scrolled
from analysis.report.table_cells import Table, TableCell

LATEX = {
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
# Columns that a page of paper holds, and a screen at full size of type.
FITS, WIDE = 6, 7


def latex(table: Table) -> str:
    r"""A `table` environment for `\usepackage{booktabs,graphicx}`.

    Better is bold, worse italic; comments behind each row name its runs and commits. Tables of many columns
    are scaled to the line.
    """
    columns = "l" + "r" * (len(table.head) - 1)
    wide = len(table.head) > FITS
    lines = [
        f"% {_plain(table.title)}",
        "% made by python -m analysis; do not edit",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_escape(table.title)}}}",
        rf"\label{{tab:{re.sub(r'[^a-z0-9]+', '-', table.name.lower())}}}",
        r"\small",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(_escape(head) for head in table.head) + r" \\",
        r"\midrule",
    ]
    for index, row in enumerate(table.rows):
        if len(row) == 1:
            lines += [
                *([r"\addlinespace"] if index else []),
                rf"\multicolumn{{{len(table.head)}}}{{l}}{{\textit{{{_escape(row[0].text)}}}}} \\",
            ]
            continue
        lines.append(" & ".join(_latex_cell(cell) for cell in row) + r" \\")
        if runs := _runs(row):
            lines.append(f"%   runs {' '.join(runs)}; commit {' '.join(_commits(table, runs))}")
    lines += [r"\bottomrule", r"\end{tabular}" + ("}" if wide else "")]
    if below := [*table.foot, *table.notes]:
        lines += [
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}\footnotesize",
            *(_escape(text) + r"\par" for text in below),
            r"\end{minipage}",
        ]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_cell(cell: TableCell) -> str:
    text = TONES[cell.tone] % _escape(cell.text)
    return f"{text} {{\\scriptsize {_escape(cell.detail)}}}" if cell.detail else text


def _escape(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _plain(text: str) -> str:
    return text.replace("\n", " ")


def document(tables: Sequence[str]) -> str:
    """A LaTeX document around tables, to look at or to test."""
    head = [
        r"\documentclass{article}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage{booktabs,graphicx}",
        r"\usepackage[a4paper,landscape,margin=15mm]{geometry}",
    ]
    return "\n".join([*head, r"\begin{document}", *tables, r"\end{document}", ""])


def markdown(table: Table, trace: bool = True) -> str:
    """A Markdown table with its foot, and, with `trace`, the runs and commits behind each row."""
    lines = [f"**{_pipe(table.title)}**", "", "| " + " | ".join(_pipe(head) for head in table.head) + " |"]
    lines.append("|" + "---|" + "---:|" * (len(table.head) - 1))
    for row in table.rows:
        heading = [f"*{_pipe(row[0].text)}*", *([""] * (len(table.head) - 1))]
        cells = heading if len(row) == 1 else [_markdown_cell(cell) for cell in row]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"{_pipe(text)}  " for text in [*table.foot, *table.notes])]
    if trace and table.runs:
        lines += ["", "<details><summary>Runs</summary>", ""]
        for row in table.rows:
            if runs := _runs(row):
                commits = ", ".join(_commits(table, runs))
                lines.append(f"- {_pipe(str(row[0]))}: {', '.join(runs)}, commit {commits}")
        lines += ["", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(cell: TableCell) -> str:
    text = _pipe(cell.text)
    marked = {"better": f"**{text}**", "worse": f"*{text}*"}.get(cell.tone, text) if text else ""
    return f"{marked} {_pipe(cell.detail)}".strip()


def _pipe(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def to_html(table: Table) -> str:
    """A `<figure>` with the table and its foot; a cell's runs are in its tooltip, a row's are below."""
    wide = " class=wide" if len(table.head) > WIDE else ""
    heads = "".join(f"<th scope='col'>{html.escape(head)}</th>" for head in table.head)
    rows = "".join(_html_row(table, row) for row in table.rows)
    feet = [f"<p class='foot'>{html.escape(text)}</p>" for text in [*table.foot[:1], *table.notes]]
    grid = f"<table{wide}><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return "".join(
        [
            f"<figure class='table' id='{html.escape(table.name)}'>",
            f"<figcaption>{html.escape(table.title)}</figcaption>{scrolled(grid, table.title)}",
            *feet,
            _html_trace(table),
            "</figure>\n",
        ]
    )


def _html_row(table: Table, row: Sequence[TableCell]) -> str:
    if len(row) == 1:
        heading = f"<th scope='rowgroup' colspan='{len(table.head)}'>{html.escape(row[0].text)}</th>"
        return f"<tr class='group'>{heading}</tr>"
    return f"<tr>{''.join(_html_cell(table, cell, index == 0) for index, cell in enumerate(row))}</tr>"


def _html_trace(table: Table) -> str:
    """The rest of the foot, and the runs and commits behind each row, folded away."""
    traced = [(row, runs) for row in table.rows if (runs := _runs(row))]
    if not traced and not table.foot[1:]:
        return ""
    parts = ["<details class='trace'><summary>how to read this; runs and commits behind each row</summary>"]
    parts += [*(f"<p>{html.escape(text)}</p>" for text in table.foot[1:]), "<ul>"]
    for row, runs in traced:
        links = ", ".join(f"<a href='#run-{html.escape(run)}'>{html.escape(run)}</a>" for run in runs)
        commits = html.escape(", ".join(_commits(table, runs)))
        parts.append(f"<li>{html.escape(str(row[0]))}: {links}; commit {commits}</li>")
    return "".join([*parts, "</ul></details>"])


def _html_cell(table: Table, cell: TableCell, first: bool) -> str:
    title = ""
    if cell.runs:
        runs, commits = " ".join(cell.runs), " ".join(_commits(table, cell.runs))
        title = f" title='runs {html.escape(runs)}; commit {html.escape(commits)}'"
    kind = f" class='{cell.tone}'" if cell.tone else ""
    detail = f" <small>{html.escape(cell.detail)}</small>" if cell.detail else ""
    tag, scope = ("th", " scope='row'") if first else ("td", "")
    # A narrow screen breaks names where their parts meet.
    text = html.escape(cell.text).replace("_", "_<wbr>") if first else html.escape(cell.text)
    return f"<{tag}{scope}{kind}{title}>{text}{detail}</{tag}>"


def to_text(table: Table) -> str:
    """Columns for a terminal."""
    lines = [list(table.head), *([str(cell) for cell in row] for row in table.rows)]
    full = [line for line in lines if len(line) == len(table.head)]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    out = [table.title, ""]
    for line in lines:
        if len(line) == 1 and len(table.head) > 1:
            out.append(line[0])
            continue
        padded = [
            text.ljust(width) if index == 0 else text.rjust(width)
            for index, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  ".join(padded).rstrip())
    return "\n".join([*out, "", *table.foot, *table.notes]).rstrip() + "\n"


def _runs(row: Sequence[TableCell]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run for cell in row for run in cell.runs))


def _commits(table: Table, runs: Sequence[str]) -> list[str]:
    return [commit[:SHORT] + ("+" if commit.endswith("+") else "") for commit in table.commits(runs)]
