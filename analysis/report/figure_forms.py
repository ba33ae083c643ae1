"""A figure's forms: its places computed once, and each form drawn once.

`Figure.savefig` draws a figure twice, first without a picture, for layouts that change with the form.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for cyclic garbage meanwhile: a figure makes little, and searching takes an eighth of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def lay_out(figure: Figure) -> None:
    """Compute all places, for all forms."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")


def svg_text(figure: Figure, about: Mapping[str, str]) -> str:
    """A figure as SVG without a date.

    Args:
        figure: laid out.
        about: its title and description.
    """
    out = StringIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, **about})
    return out.getvalue()


def write_pdf(figure: Figure, path: Path, about: Mapping[str, str]) -> None:
    """Write a figure as PDF without a date."""
    subject = {"CreationDate": None, "Title": about["Title"], "Subject": about["Description"]}
    FigureCanvasPdf(figure).print_pdf(path, metadata=subject)


def write_png(figure: Figure, path: Path, about: Mapping[str, str]) -> None:
    """Write a figure as PNG, as fine as the style says."""
    figure.set_dpi(matplotlib.rcParams["savefig.dpi"])
    FigureCanvasAgg(figure).print_png(path, metadata=dict(about))
