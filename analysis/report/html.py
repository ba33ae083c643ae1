"""The look of a page: one HTML file, light and dark, that needs no network."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path

STYLE = """
:root { --ink: #1b1b1b; --quiet: #5c5c5c; --line: #dcdcdc; --paper: #fff; --wash: #f5f6f7; --link: #0a5a94;
  --good: #00664a; --bad: #a33b00 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --quiet: #a4a4a4; --line: #3b3d40; --paper: #17181a; --wash: #212326;
    --link: #7fc0f0; --good: #4fd0a5; --bad: #ffa066 }
  img { background: #fff; border-radius: 4px }
}
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 74rem; padding: 2rem 1.25rem 4rem;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 .3rem }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .5rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem }
p, li { max-width: 52rem }
p { margin: .5rem 0 }
a { color: var(--link) }
.quiet, .foot { color: var(--quiet) }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1rem 0; font-size: .92rem }
figure { margin: 1.3rem 0 }
figcaption { font-weight: 600; margin-bottom: .35rem }
figure.picture figcaption { font-weight: 400; color: var(--quiet); margin-top: .3rem; max-width: 52rem }
.scroll { overflow-x: auto }
img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem }
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
.lead dd { margin: 0; max-width: 52rem }
ul.caveats li { margin: .35rem 0 }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(15.5rem, 1fr)); gap: .7rem;
  margin: .5rem 0 1.4rem }
.answer { border: 1px solid var(--line); border-left: 4px solid var(--quiet); border-radius: 4px;
  padding: .5rem .7rem; min-width: 0 }
.answer.right { border-left-color: var(--good) }
.answer.wrong { border-left-color: var(--bad) }
.answer header { display: flex; justify-content: space-between; gap: .6rem; font-size: .88rem }
.answer.right header b { color: var(--good) }
.answer.wrong header b { color: var(--bad) }
.answer pre { margin: .4rem 0 0; padding: 0; background: none; white-space: pre-wrap;
  overflow-wrap: anywhere }
@media print {
  body { max-width: none }
  details { display: block }
  nav { display: none }
}
"""


# Pixels an inch: of a screen whose type is as large as the page's, and of the figures.
SCREEN, PRINT = 108, 170


def document(title: str, body: str, style: str = STYLE) -> str:
    """A complete page."""
    meta = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
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


def picture(path: Path, caption: str) -> str:
    """A PNG, inside the page, at the size that its type was set for."""
    raw = path.read_bytes()
    width = round(int.from_bytes(raw[16:20]) * SCREEN / PRINT)
    data = base64.b64encode(raw).decode()
    name = html.escape(path.stem.replace("_", " "))
    image = f"<img style='width: {width}px' alt='{name}' src='data:image/png;base64,{data}'>"
    text = f"<figcaption>{html.escape(caption)}</figcaption>"
    return f"<figure class='picture' id='{path.stem}'>{image}{text}</figure>\n"
