"""Exports, tables, figures and reports of finished runs.

python -m analysis export SOURCE         run folders, W&B (entity/project) or its offline files, as three
Parquet files python -m analysis report SWEEP          one HTML page of a sweep, with its tables and figures
as files python -m analysis compare SWEEP         accuracy by arm, differences from the baseline, verdicts
python -m analysis before_after SOURCE   held-out accuracy before and after, of every run
python -m analysis credit RUN            the run's completions, tokens coloured by weight, as RUN/credit.html
python -m analysis importance RUN        what spans are worth, by kind, and against re-rolled success rates

SOURCE and SWEEP: a folder of run folders, its name below outputs/, a folder that export wrote, or
entity/project on W&B.
"""

import argparse
import json
import sys
from pathlib import Path

from analysis.export import Export, load
from analysis.guards import KINDS
from analysis.study import METRIC, Study, study


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("what", choices=["export", "report", "compare", "before_after", "credit", "importance"])
    out.add_argument("source", help="where the runs are")
    out.add_argument(
        "--out", type=Path, help="folder to write to (export: SOURCE/export, report: SOURCE/report)"
    )
    out.add_argument(
        "--axis",
        help="what is compared: algo, divergence, weighting, model or dataset (the first that varies)",
    )
    out.add_argument(
        "--baseline",
        help="the choice that differences are measured from (divergence: kl, weighting: uniform)",
    )
    out.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="SETTING",
        help="a setting that makes arms, such as divergence.beta; may be given again",
    )
    out.add_argument("--metric", default=METRIC, help=f"what is compared ({METRIC})")
    out.add_argument(
        "--allow",
        default="",
        metavar="KINDS",
        help=f"guards to pass over, named in every table's foot: {','.join(KINDS)}",
    )
    out.add_argument("--filters", default="{}", help="of W&B runs, as JSON: '{\"config.seed\": 1}'")
    out.add_argument(
        "--offline", action="store_true", help="read W&B's offline files, not the run folders around them"
    )
    out.add_argument(
        "--format",
        default="text",
        choices=["text", "markdown", "latex", "html"],
        help="of the tables that are printed (text)",
    )
    return out


def main() -> None:
    """Print a table, or write files and say where."""
    asked = parser().parse_args()
    try:
        if asked.what == "credit":
            from analysis.credit import credit_page

            page = Path(asked.source) / "credit.html"
            page.write_text(credit_page(Path(asked.source)))
            print(page)
        elif asked.what == "importance":
            from analysis.importance import importance

            print(importance(Path(asked.source)))
        else:
            _tables(asked, load(asked.source, filters=_filters(asked.filters), offline=asked.offline))
    except ValueError as error:
        sys.exit(f"error: {error}")


def _filters(text: str) -> dict[str, object]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"filters={text}: not JSON ({error}); W&B's query language, for instance "
            f'\'{{"state": "finished"}}\''
        ) from error


def _tables(asked: argparse.Namespace, export: Export) -> None:
    if asked.what == "export":
        folder = asked.out or _beside(asked.source) / "export"
        export.write(folder)
        print(
            f"{folder}: {export.runs.num_rows} runs, {export.metrics.num_rows} rows of {len(export.names)} "
            f"metrics, "
            f"{export.questions.num_rows} "
            f"answers"
        )
        return
    allow = [kind for kind in asked.allow.split(",") if kind]
    compared = asked.what != "before_after"
    found: Study = study(
        export,
        axis=asked.axis,
        baseline=asked.baseline,
        by=asked.by,
        metric=asked.metric,
        allow=allow,
        compared=compared,
    )
    if asked.what == "report":
        from analysis.report import named, report

        folder = asked.out or _beside(asked.source) / "report"
        print(report(found, folder, named(asked.source, export)))
        return
    from analysis import render
    from analysis.tables import accuracy, before_after

    table = before_after(found) if asked.what == "before_after" else accuracy(found)
    print(
        {"text": render.to_text, "markdown": render.markdown, "latex": render.latex, "html": render.to_html}[
            asked.format
        ](table),
        end="",
    )


def _beside(source: str) -> Path:
    path = Path(source) if Path(source).exists() else Path("outputs") / source
    return path if path.exists() else Path("outputs") / source.replace("/", "_")


if __name__ == "__main__":
    main()
