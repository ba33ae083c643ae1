"""Differences by what the start model already knew: learning against forgetting."""

from analysis.report.study_table import EMPTY, basis, basis_cell, block_heading, percent_cell, study_table
from analysis.report.table_cells import Table, TableCell, difference_cells
from analysis.study.comparison import Difference
from analysis.study.strata import FEWEST_QUESTIONS, Strata, start, stratum_rows
from analysis.study.study import Study


def strata_tables(study: Study) -> list[Table]:
    """A table for each way to part questions; none where the start model's answers are not there."""
    known = start(study)
    if known is None or len(study.design.arms) < 2:
        return []
    return [made for strata in known.strata if (made := _table(study, strata)) is not None]


def why_no_strata(study: Study) -> str:
    """Why there is no table, for who asked for one."""
    if len(study.design.arms) < 2:
        return "there is one arm, and strata compare"
    if start(study) is None:
        return "no run has answers at step 0, which they are by; set eval_questions"
    return (
        f"no two of them have {FEWEST_QUESTIONS} questions, below which a stratum is none; more "
        "eval_questions would part them"
    )


def _table(study: Study, strata: Strata) -> Table | None:
    axis, base = study.design.axis, study.design.baseline
    rows: list[list[TableCell]] = []
    every: list[Difference] = []
    for block in study.design.blocks:
        made = stratum_rows(study, strata, block)
        rows += block_heading(study, block) if made else []
        for row in made:
            runs = study.names([row.arm, base], block)
            cells = difference_cells(row.gap, runs)
            every += [row.gap] if row.gap is not None else []
            basis_of = EMPTY if row.gap is None else basis_cell(row.gap, runs)
            name = TableCell(row.stratum, runs=runs)
            questions = TableCell(f"{row.questions:,}", runs=runs)
            level = percent_cell(row.levels, study.names([row.arm], block), row.questions)
            rows.append(
                [name, questions, TableCell(row.arm, runs=runs), level, cells[0], basis_of, *cells[1:]]
            )
    if not every:
        return None
    head = [strata.name, "questions", axis, f"{study.metric}, %", f"difference from {base}", "for new", "p"]
    foot = [
        f"Questions by the start model's answers at step 0: {strata.by}. Strata are known before training, "
        "so that they are the same for all arms.",
        basis(study, every).replace("the block's comparisons", "all rows of the block"),
        "Exploratory.",
    ]
    slug = strata.name.replace("start's ", "start_")
    name, title = (
        f"strata_{slug}_by_{axis}",
        f"{study.metric} by the {strata.name.replace('start', 'start model')}",
    )
    if study.of_set:
        name = f"{name}_on_{study.of_set}"
    return study_table(study, name, title, [*head, "verdict"], rows, foot)
