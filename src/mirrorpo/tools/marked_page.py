"""A page of docs/ that holds a made table, between two markers."""

from pathlib import Path

# The lines before and behind the table.
Markers = tuple[str, str]


def written(text: str, table: str, markers: Markers) -> str:
    """A page with what stands between its two markers replaced.

    Raises:
        ValueError: if it does not have one pair of markers.
    """
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f"the page needs the two lines {begin} and {end}, once each and in this order; the table goes "
            f"between them"
        )
    return text[: text.index(begin) + len(begin)] + f"\n\n{table}\n\n" + text[text.index(end) :]


def publish(table: str, page: Path | None, markers: Markers) -> None:
    """Print a table, or write it into a page.

    Raises:
        ValueError: if the page does not have one pair of markers.
        OSError: if it cannot be read or written.
    """
    if page is None:
        print(table)
    else:
        page.write_text(written(page.read_text(), table, markers))
