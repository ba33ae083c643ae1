"""A table as Markdown, HTML and text; what each says is the same, and what its LaTeX does."""

import html
from collections.abc import Sequence

from analysis.report.html import scrolled
from analysis.report.latex import short_commits
from analysis.report.table_cells import Table, TableCell

# Columns that a screen holds at full size of type.
WIDE = 7


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
                commits = ", ".join(short_commits(table, runs))
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
        commits = html.escape(", ".join(short_commits(table, runs)))
        parts.append(f"<li>{html.escape(str(row[0]))}: {links}; commit {commits}</li>")
    return "".join([*parts, "</ul></details>"])


def _html_cell(table: Table, cell: TableCell, first: bool) -> str:
    title = ""
    if cell.runs:
        runs, commits = " ".join(cell.runs), " ".join(short_commits(table, cell.runs))
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
