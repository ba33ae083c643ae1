"""What the uncertainty of each comparison is made of, and what would make it smaller."""

from collections.abc import Mapping

from analysis.report.study_table import block_heading, study_table
from analysis.report.table_cells import Table, TableCell, number
from analysis.stats.components import Components, components, sampling_variance
from analysis.study.question_scores import evaluation_metric
from analysis.study.study import Study

# What more of it would make the error smaller.
MORE: Mapping[str, Mapping[str, float]] = {
    "seeds": {"seeds": 2.0},
    "questions": {"questions": 2.0},
    "samples": {"samples": 2.0},
}
SPREADS = ("seeds", "questions", "seed x question", "prediction")
# Within this share of the smallest error two ways buy equally much.
ALIKE = 1.02


def of_comparison(study: Study, arm: str, block: str) -> Components | None:
    """The components of an arm's difference from the baseline; None without answers of several seeds."""
    ours, theirs = study.pair(arm, block)
    if ours.ndim != 2 or min(ours.shape) < 2:
        return None
    k = samples_of_a_score(study)
    prediction = sampling_variance(ours, k) + sampling_variance(theirs, k)
    return components(ours - theirs, prediction)


def samples_of_a_score(study: Study) -> int:
    """How many sampled answers a question's score is the mean of; 0 where it is no such mean."""
    parts = evaluation_metric(study.metric)
    quantity = "" if parts is None else parts.quantity
    if quantity.startswith("avg@") and parts is not None:
        return parts.k or 0
    if quantity != "pass@1":
        return 0
    samples = [study.answers(run, study.of_set).get("samples") for run in study.design.runs]
    return int(min((counts.min() for counts in samples if counts is not None and len(counts)), default=0))


def variance(study: Study) -> Table | None:
    """The components of every comparison; None where no comparison has answers of several seeds."""
    axis, base = study.design.axis, study.design.baseline
    sampled = samples_of_a_score(study) > 1
    more = {name: factors for name, factors in MORE.items() if name != "samples" or sampled}
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        made = {arm: of_comparison(study, arm, block) for arm in study.arms(block) if arm != base}
        known = {arm: parts for arm, parts in made.items() if parts is not None}
        rows += block_heading(study, block) if known else []
        rows += [_row(study, parts, arm, block, more) for arm, parts in known.items()]
    if not any(len(row) > 1 for row in rows):
        return None
    spreads = SPREADS if sampled else SPREADS[:-1]
    head = [f"{axis}, against {base}", *(f"{name}, points" for name in spreads), "standard error"]
    head += [*(f"with twice the {name}" for name in more), "buys most"]
    foot = [
        f"Differences in {study.metric} from {base}. Standard deviations of one seed's difference beyond its "
        "questions, of one question's beyond its seeds, and of what a seed learned of a question: mean "
        "squares of a two-way layout, none below 0, so that of few seeds they are rough."
        + (
            " Prediction: what another sample of answers of the same policies would change."
            if sampled
            else ""
        ),
        "Standard error: of the mean difference for new seeds and questions, as these components have it; "
        "with twice the seeds, questions"
        + (" or samples of a question" if sampled else "")
        + ". Greedy answers repeat, so that they have no noise of prediction; what a sample would average "
        "out is in seed x question.",
    ]
    title = f"What the uncertainty of {study.metric} is made of"
    return study_table(study, f"variance_by_{axis}", title, head, rows, foot)


def _row(
    study: Study, parts: Components, arm: str, block: str, more: Mapping[str, Mapping[str, float]]
) -> list[TableCell]:
    runs = study.names([arm, study.design.baseline], block)
    variances = [parts.seeds, parts.questions, parts.interaction]
    variances += [parts.prediction] if "samples" in more else []
    errors = {name: parts.variance(**factors) ** 0.5 for name, factors in more.items()}
    now = parts.variance() ** 0.5
    least = min(errors.values())
    best = [name for name, error in errors.items() if error <= ALIKE * least]
    numbers = [*(value**0.5 for value in variances), now, *errors.values()]
    texts = [number(100 * value, 2 if index >= len(variances) else 1) for index, value in enumerate(numbers)]
    return [
        TableCell(arm, runs=runs),
        *(TableCell(text, runs=runs) for text in texts),
        TableCell("nothing" if not now else " or ".join(best), runs=runs),
    ]
