"""Tables and pages of finished runs.

python -m analysis before_after FOLDER   held-out accuracy before and after, of every run below a folder
python -m analysis compare FOLDER --axis weighting --baseline uniform
                                         the last evaluation of each choice over seeds, and its difference, with intervals
python -m analysis credit RUN            the run's completions, tokens coloured by weight, as RUN/credit.html
python -m analysis importance RUN        what spans are worth, by kind, and against re-rolled success rates
"""

import argparse
import sys
from pathlib import Path

from analysis.credit import credit_page
from analysis.importance import importance
from analysis.tables import before_after, compare


def main() -> None:
    """Print a table as text, or write a page and say where."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["before_after", "compare", "credit", "importance"])
    parser.add_argument("folder", type=Path, help="a run folder; for a table also a sweep's folder, or outputs")
    parser.add_argument("--axis", default="weighting", help="what compare compares (weighting)")
    parser.add_argument("--baseline", default="uniform", help="the choice that compare measures from (uniform)")
    parser.add_argument("--metric", default="eval/greedy_accuracy", help="what compare reads of the last evaluation (eval/greedy_accuracy)")
    arguments = parser.parse_args()
    try:
        if arguments.what == "credit":
            page = arguments.folder / "credit.html"
            page.write_text(credit_page(arguments.folder))
            print(page)
        elif arguments.what == "importance":
            print(importance(arguments.folder))
        elif arguments.what == "compare":
            print(compare(arguments.folder, arguments.axis, arguments.baseline, arguments.metric).to_string(index=False))
        else:
            print(before_after(arguments.folder).to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
