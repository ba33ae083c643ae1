"""Exports, tables, figures and reports of finished runs.

python -m analysis export SOURCE         run folders, W&B (entity/project) or its offline files, as three
                                         Parquet files
python -m analysis report SWEEP          one HTML page of a sweep, with its tables and figures as files
python -m analysis compare SWEEP         accuracy by arm, differences from the baseline, verdicts
python -m analysis area SWEEP            area under a training curve by arm, and whether it is as expected
python -m analysis overoptimisation SWEEP   proxy and gold reward against drift from the start model, as a
                                         table and a figure
python -m analysis select SWEEP          the best settings of each arm on these seeds, for a sweep on others
python -m analysis strata SWEEP          differences on what the start model got right, sometimes, never
python -m analysis before_after SOURCE   held-out accuracy before and after, of every run
python -m analysis credit RUN            the run's completions, tokens coloured by weight, as RUN/credit.html
python -m analysis importance RUN        what spans are worth, by kind, and against re-rolled success rates
python -m analysis checklist SWEEP       a paper's checklist, answered by what the runs recorded
python -m analysis archive SWEEP         all that the sweep's tables need as one file
python -m analysis verify ARCHIVE        its digests, its tables derived again, and with --rerun one run

SOURCE and SWEEP: a folder of run folders, its name below outputs/, a folder that export wrote, entity/project
on W&B, or what W&B exports as CSV or Parquet (a runs table, a chart, histories), by file or by folder.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from analysis.data.column_map import read_map
from analysis.data.export import Export, load
from analysis.report import render
from analysis.report.display_names import display_names
from analysis.report.latex import PAGE, WIDTHS, latex
from analysis.report.table_cells import Table
from analysis.study.budgets import METERS
from analysis.study.endpoint import ACCURACY
from analysis.study.guards import KINDS
from analysis.study.options import StudyOptions
from analysis.study.study import Study
from mirrorpo.config.paths import command

KIT = ("checklist", "archive", "verify")
RUNS = ("credit", "importance")
SWEEPS = ("compare", "area", "overoptimisation", "select", "strata", "before_after")
COMMANDS = ("export", "report", *SWEEPS, *RUNS, *KIT)
FORMATS: Mapping[str, Callable[[Table], str]] = {
    "text": render.to_text,
    "markdown": render.markdown,
    "html": render.to_html,
}
LATEX = "latex"
AXIS = "what is compared: algo, divergence, weighting, model or dataset (the first that varies)"
BASELINE = "the choice that differences are measured from (divergence: kl, weighting: uniform)"
BY = "a setting that makes arms, such as divergence.beta; may be given again"
COMPARED = (
    "what is compared (eval/avg@k where all runs sampled all questions, else eval/greedy_accuracy): NAME, "
    "auc:NAME, last10:NAME or steps_to:0.7:NAME, NAME being a metric or 'accuracy'"
)
BUDGET = (
    f"compare at an equal budget of {', '.join(METERS)}: the least that a run spent, or VALUE; "
    "may be given again"
)
MARGIN = "points of accuracy within which arms are equal (1), or as much of the metric that is named"
POSTERIOR = "compare: a hierarchical logistic posterior as a second opinion; seconds a comparison"
MAP = "YAML that says which columns of somebody else's runs are arm, seed, step, metrics (docs/analysis.md)"
EXPECTED = (
    "area: what the 95%% interval of a difference has to show, such as 'counterfactual > uniform', with >, "
    "<, !> (not above) or !<; may be given again; exit status 1 where one fails"
)
OVER = "select: the settings to choose for each arm, such as divergence.beta,lr; the smaller breaks a tie"
WRITE = "select: NAME of a file in sweeps/chosen, or a path that ends in .yaml, for another sweep to compose"
COLUMNS = "of the tables that are printed, by how their heads begin: 'accuracy,difference,verdict'"
WIDTH = (
    "of a paper: column or page; of LaTeX that is printed (page), and of a report's LaTeX and figures (both)"
)
NAMES = "YAML of names that LaTeX and figures print for arms, before those of conf/display.yaml"
TO = "archive: the file to write, .tar.zst or .tar.gz (SWEEP.tar.zst beside the sweep's folder)"
RERUN = "verify: run the Nth run again too, from 1, and compare its metrics.jsonl byte for byte"
ALLOW = f"guards to pass over, named in every table's foot: {','.join(KINDS)}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog=command("analysis"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("what", choices=COMMANDS)
    add("source", help="where the runs are")
    add("--out", type=Path, help="folder to write to (export: SOURCE/export, report: SOURCE/report)")
    add("--axis", help=AXIS)
    add("--baseline", help=BASELINE)
    add("--by", action="append", default=[], metavar="SETTING", help=BY)
    add("--metric", help=COMPARED)
    add("--margin", type=float, metavar="POINTS", help=MARGIN)
    add("--posterior", action="store_true", help=POSTERIOR)
    add("--budget", action="append", default=[], metavar="NAME[=VALUE]", help=BUDGET)
    add("--expect", action="append", default=[], metavar="'A > B'", help=EXPECTED)
    add("--over", default="", metavar="SETTINGS", help=OVER)
    add("--write", metavar="NAME", help=WRITE)
    add("--allow", default="", metavar="KINDS", help=ALLOW)
    add("--to", type=Path, metavar="FILE", help=TO)
    add("--weights", action="store_true", help="archive: each run's policy too")
    add("--rerun", type=int, metavar="N", help=RERUN)
    add("--filters", default="{}", help="of W&B runs, as JSON: '{\"config.seed\": 1}'")
    add("--map", type=Path, metavar="FILE", help=MAP)
    add("--offline", action="store_true", help="read W&B's offline files, not the run folders around them")
    add("--format", default="text", choices=[*FORMATS, LATEX], help="of the tables that are printed (text)")
    add("--columns", default="", metavar="HEADS", help=COLUMNS)
    add("--width", choices=WIDTHS, help=WIDTH)
    add("--names", type=Path, metavar="FILE", help=NAMES)
    return out


def main() -> None:
    """Print a table, or write files and say where."""
    args = parser().parse_args()
    try:
        _refuse_files(args)
        _run(args)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        # Whoever reads, such as head, has had enough; nothing is left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # Of a network there is no file.
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        sys.exit(f"error: {named}; name a place that can be read or written (--out, --to, --write)")


def _run(args: argparse.Namespace) -> None:
    if args.what == "credit":
        from analysis.report.credit_page import credit_page

        page = Path(args.source) / "credit.html"
        page.write_text(credit_page(Path(args.source)))
        print(page)
    elif args.what == "importance":
        from analysis.study.span_value import importance

        print(importance(Path(args.source)))
    elif args.what in KIT:
        _kit(args)
    else:
        export = load(
            args.source,
            filters=_filters(args.filters),
            offline=args.offline,
            columns=read_map(args.map),
        )
        for note in export.notes:
            print(f"note: {note}", file=sys.stderr)
        if args.what == "export":
            _write_export(args, export)
        elif args.what == "area":
            _areas(args, export)
        elif args.what == "select":
            _select(args, export)
        elif args.what == "overoptimisation":
            _over_optimisation(args, export)
        else:
            _compare(args, export)


def _refuse_files(args: argparse.Namespace) -> None:
    """Check that what is to be written can have its folder, before anything is computed for it."""
    file = Path(args.write) if args.write and args.write.endswith(".yaml") else None
    for option, value, folder in (
        ("--out", args.out, args.out),
        ("--to", args.to, args.to and args.to.parent),
        ("--write", file, file and file.parent),
    ):
        places = [folder, *folder.parents] if folder else []
        there = next((place for place in places if place.exists()), None)
        if there is not None and not there.is_dir():
            raise ValueError(f"{option} {value}: {there} is a file; name a place below a folder")


def _filters(text: str) -> dict[str, object]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"filters={text}: not JSON ({error}); W&B's query language, for instance "
            f'\'{{"state": "finished"}}\''
        ) from error


def _kit(args: argparse.Namespace) -> None:
    from analysis.kit.archive import archive
    from analysis.kit.checklist import checklist, text
    from analysis.kit.verify import verify

    if args.what == "verify":
        lines, holds = verify(Path(args.source), args.rerun)
        print("\n".join(lines))
        if not holds:
            sys.exit(1)
        return
    options = _options(args)
    if args.what == "checklist":
        export = load(args.source, filters=_filters(args.filters), columns=read_map(args.map))
        form = text if args.format == "text" else FORMATS[args.format]
        print(form(checklist(options.of(export))), end="")
        return
    root = _beside(args.source)
    if not root.is_dir():
        raise ValueError(
            f"{args.source}: archives are made of a folder of runs or of an export; export it first"
        )
    print(archive(root, args.to or root.parent / f"{root.name}.tar.zst", options, weights=args.weights))


def _options(args: argparse.Namespace) -> StudyOptions:
    return StudyOptions(
        axis=args.axis,
        baseline=args.baseline,
        by=args.by,
        metric=args.metric,
        margin=args.margin,
        budget=args.budget,
        allow=[kind for kind in args.allow.split(",") if kind],
    )


def _write_export(args: argparse.Namespace, export: Export) -> None:
    folder = args.out or _beside(args.source) / "export"
    export.write(folder)
    print(
        f"{folder}: {export.runs.num_rows} runs, {export.metrics.num_rows} rows of {len(export.names)} "
        f"metrics, {export.questions.num_rows} answers"
    )


def _areas(args: argparse.Namespace, export: Export) -> None:
    from analysis.report.area_table import area_table, expectation_table
    from analysis.report.headroom import headroom_table
    from analysis.study.area import areas, expectations

    expected = expectations(args.expect)
    made = replace(_options(args), metric=None, margin=None, budget=[]).of(export)
    measured = areas(made, args.metric or "reward/mean")
    # Where credit is compared, what there is to move is said beside it.
    headroom = headroom_table(made) if made.design.axis == "weighting" else None
    tables, holds = [area_table(made, measured), *([headroom] if headroom else [])], True
    if expected:
        table, holds = expectation_table(made, measured, expected)
        tables.append(table)
    _print(args, made, tables)
    if not holds:
        sys.exit(1)


def _select(args: argparse.Namespace, export: Export) -> None:
    from analysis.report.selection_table import chosen_tables
    from analysis.study.selecting import select, write

    over = [key.strip() for key in args.over.split(",") if key.strip()]
    made = select(export, over, replace(_options(args), margin=None, budget=[]))
    _print(args, made.study, chosen_tables([made.record()]))
    if args.write:
        print(f"{write(made, args.write)}: compose it by /chosen in the defaults of a sweep on other seeds")


def _over_optimisation(args: argparse.Namespace, export: Export) -> None:
    """The table, and where its figure was written."""
    from analysis.report.figures import draw
    from analysis.report.over_optimisation import over_optimisation_table

    made = _options(args).of(export)
    table = over_optimisation_table(made)
    if table is None:
        raise ValueError(
            f"{args.source}: no run logs a proxy, its gold and a drift; train with reward=proxy and "
            "drift_questions above 0"
        )
    _print(args, made, [table])
    folder = args.out or _beside(args.source) / "figures"
    widths = [args.width] if args.width else list(WIDTHS)
    draw(made, folder, display_names(made, args.names), widths, only=["over_optimisation"])
    print(f"{folder}: over_optimisation", file=sys.stderr)


def _compare(args: argparse.Namespace, export: Export) -> None:
    made = _options(args).of(export, compared=args.what != "before_after")
    if made.reason:
        print(f"note: verdicts rest on {made.reason}", file=sys.stderr)
    if args.what == "report":
        # Drawing takes a second to import; a table does without it.
        from analysis.report.pages import report
        from analysis.report.sections import named

        folder = args.out or _beside(args.source) / "report"
        widths = [args.width] if args.width else list(WIDTHS)
        names = display_names(made, args.names)
        print(report(made, folder, named(args.source, export), names=names, widths=widths))
        return
    tables = _tables(made, args.what)
    if args.posterior:
        from analysis.report.posterior_table import posterior_table

        tables.append(posterior_table(made))
    _print(args, made, tables)


def _print(args: argparse.Namespace, made: Study, tables: Sequence[Table]) -> None:
    """Tables in the form and with the columns that were named."""
    if args.names and args.format != LATEX:
        raise ValueError(f"names={args.names}: names are of LaTeX and of figures; add --format {LATEX}")
    # Where sampled answers are compared, the column is named for them.
    own = made.metric.removeprefix("eval/") if made.by_samples else ACCURACY
    given = [name.strip() for name in args.columns.split(",") if name.strip()]
    columns = [own if name == ACCURACY else name for name in given]
    shown = [table.with_columns(columns) if columns else table for table in tables]
    if args.format == LATEX:
        texts = [latex(table, args.width or PAGE, display_names(made, args.names)) for table in shown]
    else:
        texts = [FORMATS[args.format](table) for table in shown]
    print("\n".join(texts), end="")


def _tables(made: Study, what: str) -> list[Table]:
    """What a command prints: runs one by one, or the comparison, at equal budgets where they are named."""
    from analysis.report.accuracy_tables import accuracy, before_after
    from analysis.report.budget_table import budget_tables
    from analysis.report.endpoint_table import endpoint_at_budget, endpoint_table
    from analysis.report.evaluation_tables import sets
    from analysis.report.gains import of_runs
    from analysis.report.plan_table import primary_table
    from analysis.report.strata_table import strata_tables, why_no_strata

    if what == "strata":
        if tables := strata_tables(made):
            return tables
        raise ValueError(f"strata: {why_no_strata(made)}")
    if what == "before_after":
        return [before_after(made, of_runs(made))]
    if made.budgets and made.endpoint is not None:
        return [endpoint_at_budget(made, made.endpoint, budget) for budget in made.budgets]
    if made.budgets:
        return budget_tables(made)
    if made.endpoint is not None:
        return [endpoint_table(made, made.endpoint)]
    primary = primary_table(made)
    first = [primary] if primary is not None else []
    return [*first, accuracy(made), *([sets(made)] if made.export.sets else [])]


def _beside(source: str) -> Path:
    path = Path(source) if Path(source).exists() else Path("outputs") / source
    if path.is_file():
        return path.with_suffix("")
    return path if path.exists() else Path("outputs") / source.replace("/", "_")


if __name__ == "__main__":
    main()
