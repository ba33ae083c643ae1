"""Where the policy gradient of the baseline goes, from the start of training to its end."""

import numpy as np

from analysis.report.study_table import study_table
from analysis.report.table_cells import Table, TableCell, estimate_cell
from analysis.stats.intervals import share_interval
from analysis.study.study import Study

GRADIENT, TOKENS = "credit/all_gradient_", "credit/all_tokens_"
# The share of the steps that an end of training is, and the middle.
PART = 0.1


def headroom_table(study: Study) -> Table | None:
    """Shares of tokens and gradient by kind of token at start, middle and end; None where nobody logged them.

    A weighting moves gradient between kinds, so that it can do no more than there is to move.
    """
    kinds = [name.removeprefix(GRADIENT) for name in study.export.names if name.startswith(GRADIENT)]
    base, names = study.design.baseline, [f"{start}{kind}" for kind in kinds for start in (TOKENS, GRADIENT)]
    if not kinds:
        return None
    curves = study.curve(*names)
    curves = curves[(curves["arm"] == base) & (curves["step"] > 0)]
    if curves.empty:
        return None
    last = int(curves["step"].max())
    width = max(1, round(PART * last))
    begins = (1, 1 + (last - width) // 2, last - width + 1)
    runs = study.names([base])
    rows: list[list[TableCell]] = []
    for kind in kinds:
        cells = [TableCell(kind)]
        for metric, begin in [(TOKENS, begins[0]), *((GRADIENT, begin) for begin in begins)]:
            within = curves[(curves["step"] >= begin) & (curves["step"] < begin + width)]
            shares = within.groupby("seed")[f"{metric}{kind}"].mean().to_numpy(dtype=np.float64)
            shares = shares[~np.isnan(shares)]
            share = share_interval(shares).scaled(100) if len(shares) else None
            cells.append(estimate_cell(share, runs) if share else TableCell("—"))
        rows.append(cells)
    foot = [
        f"In percent, runs of {base}: L1 norm of the gradient with respect to the logits, over the first, "
        f"middle and last {width} steps. Variance is not among it: noise is what a weighting takes away "
        "where shares say little; `python -m mirrorpo.tools.gain` measures both, at the start."
    ]
    head = ["kind of token", "tokens", "gradient, start", "middle", "end"]
    return study_table(study, "headroom", f"Where the gradient of {base} goes", head, rows, foot)
