"""How many of its questions the start model knows by heart, in a line, where the runs have asked it."""

from analysis.study.study import Study

EXACT, OVERLAP, QUESTIONS = (f"contamination/{name}" for name in ("exact", "overlap", "questions"))


def contamination(study: Study) -> list[str]:
    """A sentence for each model and dataset; none where no run has screened its questions."""
    screened = study.export.metric(EXACT, OVERLAP, QUESTIONS)
    about = {
        str(run.row["run"]): (str(run.row["model"]), str(run.row["dataset"])) for run in study.design.runs
    }
    out: list[str] = []
    for model, dataset in sorted(set(about.values())):
        names = [name for name, pair in about.items() if pair == (model, dataset)]
        rows = screened[screened["run"].isin(names)]
        if rows.empty:
            continue
        out.append(
            f"Given the first 60% of each of {rows[QUESTIONS].max():.0f} questions of {dataset}, {model} as "
            f"it was before training completes {100 * rows[EXACT].mean():.1f}% verbatim; "
            f"{100 * rows[OVERLAP].mean():.1f}% of the rest's characters come before its first error. "
            "Accuracy on questions that are known by heart is no evidence of reasoning."
        )
    return out
