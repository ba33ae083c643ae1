"""`python -m analysis before_after FOLDER`: held-out accuracy before and after, of every run below a folder."""

import argparse
import sys
from pathlib import Path

from analysis.tables import before_after


def main() -> None:
    """Print a table as text."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("table", choices=["before_after"], help="which table")
    parser.add_argument("folder", type=Path, help="a run folder, a sweep's folder, or outputs")
    arguments = parser.parse_args()
    try:
        table = before_after(arguments.folder)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.1f}"))


if __name__ == "__main__":
    main()
