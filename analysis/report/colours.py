"""Colours that colour-blind readers tell apart, on paper and on a dark screen."""

# Okabe and Ito's; line styles and markers say the same in print.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
# The same hues where the ground is dark, in the same order.
ON_DARK = ("#E6E6E6", "#4C9BE8", "#FF8340", "#2FC79A", "#E79BC6", "#FFBE3D", "#A4DAFF", "#C8A75E")


def declarations(colours: tuple[str, ...]) -> str:
    """The colours as CSS variables, `--arm0` the first."""
    return "; ".join(f"--arm{index}: {colour}" for index, colour in enumerate(colours))
