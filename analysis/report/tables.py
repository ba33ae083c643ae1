"""All tables of a study."""

from analysis.report.accuracy_tables import accuracy, before_after, grid
from analysis.report.budget_table import budget_tables
from analysis.report.cost_table import cost
from analysis.report.drift_tables import matched_drift_table, steered_drift_table
from analysis.report.endpoint_table import endpoint_table
from analysis.report.evaluation_tables import set_tables
from analysis.report.gains import of_runs
from analysis.report.over_optimisation import over_optimisation_table
from analysis.report.papers_table import papers
from analysis.report.plan_table import primary_table
from analysis.report.planned_table import planned
from analysis.report.selection_table import chosen_tables
from analysis.report.sigmoid_table import sigmoid_table
from analysis.report.span_tables import importance, truth
from analysis.report.statistics_table import statistics
from analysis.report.strata_table import strata_tables
from analysis.report.table_cells import Table
from analysis.report.training_tables import sampled, steps_to_baseline
from analysis.report.variance_table import variance
from analysis.study.endpoint import read_endpoint
from analysis.study.study import Study

REWARD = "reward/mean"


def endpoint_tables(study: Study) -> list[Table]:
    """The named endpoint, the plan's, and the areas under training reward and accuracy, each once."""
    names = [f"auc:{metric}" for metric in (study.metric, REWARD) if metric in study.export.names]
    areas = [read_endpoint(name) for name in names]
    made = [study.endpoint, study.planned_endpoint, *areas]
    accuracy_at_end = read_endpoint(study.metric)
    there = [entry for entry in dict.fromkeys(made) if entry is not None and entry != accuracy_at_end]
    return [endpoint_table(study, entry) for entry in there] if len(study.design.arms) > 1 else []


def all_tables(study: Study) -> list[Table]:
    """All tables that a study has the numbers for, the papers' first."""
    design = study.design
    # Of divergences, those that differ from KL need not differ from no regulariser at all.
    from_none = design.axis == "divergence" and "none" in design.arms and design.baseline != "none"
    tables = [
        primary_table(study),
        planned(study),
        *chosen_tables(study.export.selections),
        papers(study),
        accuracy(study),
        accuracy(study, baseline="none") if from_none else None,
        grid(study),
        *endpoint_tables(study),
        *strata_tables(study),
        variance(study),
        *budget_tables(study),
        *set_tables(study),
        sampled(study),
        steered_drift_table(study),
        matched_drift_table(study),
        over_optimisation_table(study),
        steps_to_baseline(study),
        sigmoid_table(study),
        importance(study),
        statistics(study),
        cost(study),
        before_after(study, of_runs(study) if len(design.arms) == 1 else None),
    ]
    return [*(table for table in tables if table is not None), *truth(study)]
