"""The tables on evaluation sets: what k samples of a question say, and arms by sets."""

from analysis.report.accuracy_tables import OWN_SET, TONES, accuracy, toned_difference
from analysis.report.study_table import (
    accuracy_name,
    block_heading,
    level_cell,
    mean_cell,
    study_table,
)
from analysis.report.table_cells import Table, TableCell
from analysis.study.question_scores import GREEDY, evaluation_metric
from analysis.study.study import Study

# Beside the accuracies: the metric, its head, and whether it is a share.
BESIDE = (
    ("length", "tokens, greedy", False),
    ("sampled_length", "tokens, sampled", False),
    ("truncated", "cut, greedy, %", True),
    ("sampled_truncated", "cut, sampled, %", True),
    ("distinct", "distinct answers", False),
    ("distinct_right", "distinct right answers", False),
    ("right_entropy", "entropy of right answers, nats", False),
)
FOOT = (
    "Last evaluation, mean over seeds with Student's 95% interval. avg@k: mean of k sampled answers; pass@k: "
    "chance that one of k is right, unbiased; maj@k: the most frequent answer is right, ties split.",
    "Tokens of an answer; cut: by the length cap. Distinct answers: how many of the k differ. No verdict "
    "rests on this table.",
)
FOOT_OF_SEVERAL = (
    "coverage@k: share of a question's right answers that k samples contain, in expectation, unbiased; their "
    "entropy is that of the samples' counts, below the policy's by about (right answers - 1) / 2k nats."
)
# The order of accuracies in the table.
KINDS = (GREEDY, "avg", "maj", "pass", "coverage")


def set_tables(study: Study) -> list[Table]:
    """What samples say of the runs' own set; and of every other set its accuracies, and what samples say."""
    out = [samples(study)]
    if study.export.sets:
        out.insert(0, sets(study))
    for of_set in study.export.sets:
        on_set = study.on(of_set)
        out += [accuracy(on_set), samples(on_set)]
    return [table for table in out if table is not None]


def samples(study: Study) -> Table | None:
    """avg, maj, pass and coverage @k for all k, lengths and distinct answers; None where nothing says avg@k.

    Runs of older versions have pass@1 and its largest k alone, in `training_tables.sampled`.
    """
    quantities = _quantities(study)
    if not any(quantity.startswith("avg@") for quantity in quantities):
        return None
    beside = [entry for entry in BESIDE if study.beside(entry[0]) in study.export.names]
    axis, rows = study.design.axis, list[list[TableCell]]()
    for block in study.design.blocks:
        rows += block_heading(study, block)
        for arm in study.arms(block):
            runs = study.names([arm], block)
            row = [TableCell(arm, runs=runs)]
            row += [_cell(study, arm, block, quantity, True) for quantity in quantities]
            row += [_cell(study, arm, block, quantity, share) for quantity, _, share in beside]
            rows.append(row)
    head = [axis, *(f"{quantity.replace(GREEDY, 'greedy')}, %" for quantity in quantities)]
    head += [text for _, text, _ in beside]
    name = f"samples_by_{axis}" + (f"_on_{study.of_set}" if study.of_set else "")
    title = f"Sampled answers by {axis}" + (f", on {study.of_set}" if study.of_set else "")
    several = any(quantity.startswith("coverage@") for quantity in quantities)
    foot = (*FOOT, FOOT_OF_SEVERAL) if several else FOOT
    return study_table(study, name, title, head, rows, foot)


def _quantities(study: Study) -> list[str]:
    """The accuracies of the study's set that some run has, by kind and k."""
    parts = [evaluation_metric(name) for name in study.export.names]
    there = [part for part in parts if part is not None and part.of_set == study.of_set]
    kinds = {part: part.quantity.partition("@")[0] for part in there}
    known = [
        part for part in there if kinds[part] in KINDS and (part.k is not None or part.quantity == GREEDY)
    ]
    known.sort(key=lambda part: (KINDS.index(kinds[part]), part.k or 0))
    return [part.quantity for part in known]


def _cell(study: Study, arm: str, block: str, quantity: str, share: bool) -> TableCell:
    metric = study.beside(quantity)
    if share:
        return level_cell(study, arm, block, metric)
    return mean_cell(list(study.scores(arm, block, metric).values()), study.names([arm], block))


def sets(study: Study) -> Table:
    """Arms by evaluation sets, the runs' own first, each by the accuracy that its samples allow."""
    axis, base = study.design.axis, study.design.baseline
    studies = [study.on("") if study.of_set else study, *map(study.on, study.export.sets)]
    rows: list[list[TableCell]] = []
    for block in study.design.blocks:
        rows += block_heading(study, block)
        differences = [on_set.differences(block) for on_set in studies]
        for arm in study.arms(block):
            level = [level_cell(on_set, arm, block) for on_set in studies]
            rows.append([TableCell(arm, runs=study.names([arm], block)), *level])
            if arm != base:
                gaps = [toned_difference(study, arm, block, of_set.get(arm)) for of_set in differences]
                rows.append([TableCell(f"  against {base}", tone="quiet"), *gaps])
    head = [axis, *(f"{on_set.of_set or 'own'}, {accuracy_name(on_set)}, %" for on_set in studies)]
    foot = [
        f"own: {OWN_SET}. Mean of the last evaluation over seeds, in percent, with Student's 95% interval.",
        f"{TONES} Each set is a family of its own: Holm's correction is over the comparisons of a block on "
        "that set, and not over sets.",
        *(f"{on_set.of_set or 'own'}: {on_set.reason}." for on_set in studies if on_set.reason),
    ]
    return study_table(study, f"sets_by_{axis}", f"Accuracy by {axis} and evaluation set", head, rows, foot)
