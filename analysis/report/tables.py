"""All tables of a study."""

from analysis.report.accuracy_tables import accuracy, before_after, grid
from analysis.report.budget_table import budget_tables
from analysis.report.drift_tables import matched_drift_table, steered_drift_table
from analysis.report.evaluation_tables import set_tables
from analysis.report.gains import of_runs
from analysis.report.papers_table import papers
from analysis.report.span_tables import importance, truth
from analysis.report.statistics_table import statistics
from analysis.report.table_cells import Table
from analysis.report.training_tables import sampled, steps_to_baseline
from analysis.study.study import Study


def all_tables(study: Study) -> list[Table]:
    """All tables that a study has the numbers for, the papers' first."""
    design = study.design
    # Of divergences, those that differ from KL need not differ from no regulariser at all.
    from_none = design.axis == "divergence" and "none" in design.arms and design.baseline != "none"
    tables = [
        papers(study),
        accuracy(study),
        accuracy(study, baseline="none") if from_none else None,
        grid(study),
        *budget_tables(study),
        *set_tables(study),
        sampled(study),
        steered_drift_table(study),
        matched_drift_table(study),
        steps_to_baseline(study),
        importance(study),
        statistics(study),
        before_after(study, of_runs(study) if len(design.arms) == 1 else None),
    ]
    return [*(table for table in tables if table is not None), *truth(study)]
