"""A table as LaTeX (booktabs), Markdown, HTML and text; what each says is the same."""

import html
import re
from collections.abc import Sequence

from analysis.cells import Cell, Table

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$",
    "∞": r"$\infty$", "→": r"$\rightarrow$", "—": "---", "–": "--", "…": r"\dots{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    "β": r"$\beta$", "τ": r"$\tau$", "é": r"\'e", "“": "``", "”": "''", "’": "'", "·": r"$\cdot$",
}  # fmt: skip
TONES = {"better": "\\textbf{%s}", "worse": "\\textit{%s}", "quiet": "%s", "": "%s"}
SHORT = 9
# Columns that a page of paper holds, and a screen at full size of type.
FITS, WIDE = 6, 7


def latex(table: Table) -> str:
    r"""A `table` environment for `\usepackage{booktabs,graphicx}`; comments behind each row name its runs and
    commits.

    Better is bold, worse italic. Tables of many columns are scaled to the line.
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


def _latex_cell(cell: Cell) -> str:
    text = TONES[cell.tone] % _escape(cell.text)
    return f"{text} {{\\scriptsize {_escape(cell.detail)}}}" if cell.detail else text


def _escape(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _plain(text: str) -> str:
    return text.replace("\n", " ")


def document(tables: Sequence[str]) -> str:
    """A LaTeX document around tables, to look at or to test."""
    head = [r"\documentclass{article}", r"\usepackage[utf8]{inputenc}", r"\usepackage{booktabs,graphicx}"]
    body = r"\usepackage[a4paper,landscape,margin=15mm]{geometry}"
    return "\n".join([*head, body, r"\begin{document}", *tables, r"\end{document}", ""])


def markdown(table: Table, trace: bool = True) -> str:
    """A Markdown table with its foot, and, with `trace`, the runs and commits behind each row."""
    lines = [f"**{_pipe(table.title)}**", "", "| " + " | ".join(_pipe(head) for head in table.head) + " |"]
    lines.append("|" + "---|" + "---:|" * (len(table.head) - 1))
    for row in table.rows:
        cells = (
            [f"*{_pipe(row[0].text)}*", *([""] * (len(table.head) - 1))]
            if len(row) == 1
            else [_markdown_cell(cell) for cell in row]
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"{_pipe(text)}  " for text in [*table.foot, *table.notes])]
    if trace and table.runs:
        lines += ["", "<details><summary>Runs</summary>", ""]
        for row in table.rows:
            if runs := _runs(row):
                lines.append(
                    f"- {_pipe(str(row[0]))}: {', '.join(runs)}, commit {', '.join(_commits(table, runs))}"
                )
        lines += ["", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = _pipe(cell.text)
    marked = {"better": f"**{text}**", "worse": f"*{text}*"}.get(cell.tone, text) if text else ""
    return f"{marked} {_pipe(cell.detail)}".strip()


def _pipe(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def to_html(table: Table) -> str:
    """A `<figure>` with the table, its foot, and the runs behind each row; every cell's runs are in its
    tooltip.
    """
    parts = [
        (
            f"<figure class='table' "
            f"id='{html.escape(table.name)}'><figcaption>{html.escape(table.title)}</figcaption><div "
            f"class='scroll'>"
        )
    ]
    parts.append(f"<table{' class=wide' if len(table.head) > WIDE else ''}><thead><tr>")
    parts += [f"<th scope='col'>{html.escape(head)}</th>" for head in table.head]
    parts.append("</tr></thead><tbody>")
    for row in table.rows:
        if len(row) == 1:
            parts.append(
                f"<tr class='group'><th scope='rowgroup' "
                f"colspan='{len(table.head)}'>{html.escape(row[0].text)}</th></tr>"
            )
            continue
        parts.append(
            "<tr>" + "".join(_html_cell(table, cell, index == 0) for index, cell in enumerate(row)) + "</tr>"
        )
    parts.append("</tbody></table></div>")
    parts += [f"<p class='foot'>{html.escape(text)}</p>" for text in [*table.foot[:1], *table.notes]]
    traced = [(row, runs) for row in table.rows if (runs := _runs(row))]
    if traced or table.foot[1:]:
        parts.append(
            "<details class='trace'><summary>how to read this; runs and commits behind each row</summary>"
        )
        parts += [*(f"<p>{html.escape(text)}</p>" for text in table.foot[1:]), "<ul>"]
        for row, runs in traced:
            links = ", ".join(f"<a href='#run-{html.escape(run)}'>{html.escape(run)}</a>" for run in runs)
            parts.append(
                f"<li>{html.escape(str(row[0]))}: {links}; commit "
                f"{html.escape(', '.join(_commits(table, runs)))}</li>"
            )
        parts.append("</ul></details>")
    return "".join(parts) + "</figure>\n"


def _html_cell(table: Table, cell: Cell, first: bool) -> str:
    title = (
        (
            f" title='runs {html.escape(' '.join(cell.runs))}; commit "
            f"{html.escape(' '.join(_commits(table, cell.runs)))}'"
        )
        if cell.runs
        else ""
    )
    kind = f" class='{cell.tone}'" if cell.tone else ""
    detail = f" <small>{html.escape(cell.detail)}</small>" if cell.detail else ""
    tag, scope = ("th", " scope='row'") if first else ("td", "")
    return f"<{tag}{scope}{kind}{title}>{html.escape(cell.text)}{detail}</{tag}>"


def to_text(table: Table) -> str:
    """Columns for a terminal."""
    lines = [list(table.head), *([str(cell) for cell in row] for row in table.rows)]
    widths = [
        max(len(line[i]) for line in lines if len(line) == len(table.head)) for i in range(len(table.head))
    ]
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


def _runs(row: Sequence[Cell]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run for cell in row for run in cell.runs))


def _commits(table: Table, runs: Sequence[str]) -> list[str]:
    return [commit[:SHORT] + ("+" if commit.endswith("+") else "") for commit in table.commits(runs)]
