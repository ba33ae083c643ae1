"""The look of a page: one HTML file, light and dark, that needs no network."""

import html
from collections.abc import Iterable

from analysis.report.colours import COLOURS, ON_DARK, declarations
from analysis.report.inline_svg import inline_svg

# A screen in the dark; paper is never.
DARK = "screen and (prefers-color-scheme: dark)"
# A page names no address and runs no script but its own: what a model wrote cannot make a browser load.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = (
    """
:root { color-scheme: light dark; --ink: #1b1b1b; --quiet: #5c5c5c; --line: #dcdcdc; --paper: #fff;
  --wash: #f5f6f7; --link: #0a5a94; --good: #00664a; --bad: #a33b00; --grid: #b0b0b0;
  """
    + declarations(COLOURS)
    + """ }
@media """
    + DARK
    + """ {
  :root { --ink: #e6e6e6; --quiet: #a4a4a4; --line: #3b3d40; --paper: #17181a; --wash: #212326;
    --link: #7fc0f0; --good: #4fd0a5; --bad: #ffa066; --grid: #888;
    """
    + declarations(ON_DARK)
    + """ }
}
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 74rem; padding: 2rem 1.25rem 4rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; -webkit-text-size-adjust: 100% }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .3rem }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .5rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem }
p, li { max-width: 52rem }
p { margin: .5rem 0 }
a { color: var(--link) }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
.quiet, .foot { color: var(--quiet) }
.gain { font-size: 1.08rem }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1rem 0; font-size: .92rem }
figure { margin: 1.3rem 0 }
figcaption { font-weight: 600; margin-bottom: .35rem }
figure.picture figcaption { font-weight: 400; color: var(--quiet); margin-top: .3rem; max-width: 52rem }
.scroll { overflow-x: auto }
.plot { color: var(--ink); max-width: 56rem }
.plot svg { display: block; width: 100%; height: auto; fill: currentColor }
.plot svg * { stroke-linejoin: round; stroke-linecap: butt }
.plot.column { display: none }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem;
  overflow-wrap: normal }
th, td { padding: .28rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); font-weight: 400 }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom;
  white-space: normal; min-width: 4.5rem }
tbody th, thead th:first-child { text-align: left }
tbody tr:hover { background: var(--wash) }
tr.group th { font-style: italic; padding-top: .7rem; color: var(--quiet) }
td small { color: var(--quiet); font-size: .85em }
td.better { color: var(--good); font-weight: 600 }
td.worse { color: var(--bad); font-weight: 600 }
td.quiet { color: var(--quiet) }
table.wide { font-size: .82rem }
table.wide th, table.wide td { padding: .25rem .4rem }
table.wide thead th { min-width: 3.2rem }
.foot { font-size: .85rem; margin: .35rem 0 0; max-width: 60rem }
details { margin: .5rem 0 }
summary { cursor: pointer }
details.trace { font-size: .85rem; color: var(--quiet) }
pre, code { font-family: ui-monospace, monospace; font-size: .88em }
pre { background: var(--wash); padding: .7rem .9rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; border-radius: 4px; line-height: 1.5 }
.lead { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0 }
.lead dt { color: var(--quiet) }
.lead dd { margin: 0; max-width: 52rem; min-width: 0 }
ul.caveats li { margin: .35rem 0 }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15.5rem, 100%), 1fr));
  gap: .7rem; margin: .5rem 0 1.4rem }
.answer { border: 1px solid var(--line); border-left: 4px solid var(--quiet); border-radius: 4px;
  padding: .5rem .7rem; min-width: 0 }
.answer.right { border-left-color: var(--good) }
.answer.wrong { border-left-color: var(--bad) }
.answer header { display: flex; justify-content: space-between; gap: .6rem; font-size: .88rem }
.answer header b { white-space: nowrap }
.answer.right header b { color: var(--good) }
.answer.wrong header b { color: var(--bad) }
.answer pre { margin: .4rem 0 0; padding: 0; background: none; white-space: pre-wrap;
  overflow-wrap: anywhere }
@media (max-width: 700px) {
  body { padding: 1rem 1rem 3rem }
  nav { gap: .1rem 1.1rem }
  nav a { padding: .35rem 0 }
  ul { padding-left: 1.2rem }
  .lead { grid-template-columns: 1fr; gap: 0 }
  .lead dd { margin-bottom: .5rem }
  .plot.page { display: none }
  .plot.column { display: block; max-width: 26rem }
  .scroll tbody th, .scroll thead th:first-child { position: sticky; left: 0; background: var(--paper);
    min-width: 33vw; max-width: 42vw; white-space: normal; overflow-wrap: anywhere }
  .scroll td, .scroll th { font-size: .82rem; padding: .25rem .5rem }
}
@media print {
  body { max-width: none }
  details { display: block }
  nav { display: none }
}
"""
)


def document(title: str, body: str, style: str = STYLE, policy: str = POLICY) -> str:
    """A complete page.

    Args:
        title: of the window.
        body: HTML.
        style: CSS.
        policy: what a browser may load and run for it.
    """
    meta = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{style}</style>"
    )
    return f"<!doctype html><html lang='en'><head>{meta}</head><body>\n{body}</body></html>\n"


def section(anchor: str, title: str, content: str) -> str:
    """A part of the page."""
    return f"<section id='{anchor}'><h2>{html.escape(title)}</h2>\n{content}</section>"


def items(texts: Iterable[str], kind: str = "") -> str:
    """A list of what is HTML already; `kind` is its class."""
    opened = f"<ul class='{kind}'>" if kind else "<ul>"
    return opened + "".join(f"<li>{text}</li>" for text in texts) + "</ul>"


def definitions(entries: Iterable[tuple[str, str]]) -> str:
    """Names and what they stand for, both HTML already."""
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in entries)
    return f"<dl class='lead'>{rows}</dl>"


def picture(name: str, page: str, column: str, caption: str, alt: str) -> str:
    """A figure in two widths, of which the screen shows the one that fits.

    Args:
        name: of its files.
        page: its SVG for a page of paper, as matplotlib wrote it.
        column: its SVG for a column, which a phone shows.
        caption: below it.
        alt: what it says to somebody who does not see it.
    """
    wide, narrow = inline_svg(page, name, alt), inline_svg(column, f"{name}-column", alt)
    text = f"<figcaption>{html.escape(caption)}</figcaption>"
    plots = f"<div class='plot page'>{wide}</div><div class='plot column'>{narrow}</div>"
    return f"<figure class='picture' id='{name}'>{plots}{text}</figure>\n"


def scrolled(table: str, label: str) -> str:
    """A table in a box of its own that scrolls sideways, by the keyboard too."""
    return f"<div class='scroll' role='region' tabindex='0' aria-label='{html.escape(label)}'>{table}</div>"
