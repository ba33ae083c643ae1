"""A figure's SVG as part of a page: in the page's colours, light or dark, and in its type."""

import html
import re

from analysis.report.colours import COLOURS

# What stands in matplotlib's files, and the page's colour for it.
IN_THE_PAGE = {
    **{colour.lower(): f"var(--arm{index})" for index, colour in enumerate(COLOURS)},
    "#ffffff": "var(--paper)",
    "#b0b0b0": "var(--grid)",
    "#222222": "var(--ink)",
    "#333333": "var(--ink)",
    "#555555": "var(--quiet)",
    "#999999": "var(--quiet)",
}
LEFT_OUT = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>| font-family: [^;\"]*;?", re.DOTALL)
ID = re.compile(r'\bid="([^"]*)"|url\(#([^)]*)\)|(?:xlink:)?href="#([^"]*)"')
COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def inline_svg(text: str, prefix: str, label: str) -> str:
    """The `<svg>` element of a file that matplotlib wrote, to stand in a page.

    Args:
        text: of the file.
        prefix: of its ids, which no other figure of the page may have.
        label: what it is to somebody who does not see it.
    """
    body = LEFT_OUT.sub("", text[text.index("<svg") :])
    referred = {target for match in ID.finditer(body) if (target := match[2] or match[3])}

    def renamed(match: re.Match[str]) -> str:
        if match[1] is not None:
            return f'id="{prefix}-{match[1]}"' if match[1] in referred else ""
        return f"url(#{prefix}-{match[2]})" if match[2] else f'href="#{prefix}-{match[3]}"'

    body = COLOUR.sub(lambda match: IN_THE_PAGE.get(match[0], match[0]), ID.sub(renamed, body))
    box = re.search(r'viewBox="([^"]*)"', body)
    assert box is not None, f"{prefix}: an SVG without a viewBox"
    drawn = re.sub(r"\n\s*", "\n", body[body.index(">") + 1 :]).strip()
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(label)}">{drawn}\n'
