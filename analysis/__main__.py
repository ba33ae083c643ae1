"""Tables and pages of finished runs.

python -m analysis before_after FOLDER   held-out accuracy before and after, of every run below a folder
python -m analysis credit RUN            the run's completions, tokens coloured by weight, as RUN/credit.html
"""

import argparse
import sys
from pathlib import Path

from analysis.credit import credit_page
from analysis.tables import before_after


def main() -> None:
    """Print a table as text, or write a page and say where."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["before_after", "credit"])
    parser.add_argument("folder", type=Path, help="a run folder; for a table also a sweep's folder, or outputs")
    arguments = parser.parse_args()
    try:
        if arguments.what == "credit":
            page = arguments.folder / "credit.html"
            page.write_text(credit_page(arguments.folder))
            print(page)
        else:
            print(before_after(arguments.folder).to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
