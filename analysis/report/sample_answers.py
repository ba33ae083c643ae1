"""Some questions with every arm's answer, side by side."""

import html
from collections.abc import Mapping, Sequence

from analysis.data.export import Frame
from analysis.data.schema import Json
from analysis.report.answers_page import NAME, link
from analysis.report.study_table import label
from analysis.study.study import Study

SHOWN = 5
COLUMNS = ("question", "gold", "right", "outcome", "tokens", "truncated", "completion")


def samples(study: Study) -> str:
    """Some questions with every arm's answer of one seed.

    Where arms disagree most, then one that all got right and one that none did.
    """
    answers = study.export.answers(*COLUMNS)
    blocks = [_block(study, block, answers) for block in study.design.blocks]
    return "".join(blocks) or "<p>The export holds no answers.</p>"


def _block(study: Study, block: str, of_all: Frame) -> str:
    arms = study.arms(block)
    seeds = sorted(set.intersection(*(set(study.runs(arm, block)) for arm in arms)))
    if not seeds:
        return ""
    answers = {arm: _last(of_all, study.runs(arm, block)[seeds[0]].name) for arm in arms}
    right = [table["right"].astype(bool).to_dict() for table in answers.values()]
    shared = [uid for uid in right[0] if all(uid in of_arm for of_arm in right)]
    chosen = _chosen({uid: [of_arm[uid] for of_arm in right] for uid in shared})
    if not chosen:
        return ""
    where = html.escape(label(block, f"seed {seeds[0]}"))
    rule = (
        f"<p class='quiet'>{where}, greedy, last evaluation. Chosen by rule: where arms disagree, one that "
        f"all got right, one that none did. <a href='{NAME}'>All answers</a>, by arm, seed, evaluation, "
        "outcome and question.</p>"
    )
    return rule + "".join(_question(uid, seeds[0], answers) for uid in chosen)


def _question(uid: str, seed: int, answers: Mapping[str, Frame]) -> str:
    """A question with its different answers, each under the arms that gave it."""
    rows = {arm: table.loc[uid] for arm, table in answers.items()}
    first = next(iter(rows.values()))
    question = first["question"] if isinstance(first["question"], str) else str(uid)
    arms_by_completion: dict[str, list[str]] = {}
    for arm, row in rows.items():
        arms_by_completion.setdefault(str(row["completion"]), []).append(arm)
    shown = "".join(_answer(", ".join(arms), rows[arms[0]]) for arms in arms_by_completion.values())
    gold = f"<span class='quiet'>Gold: {html.escape(str(first['gold']))}</span>"
    heading = f"<h3><a href='{link(uid, seed)}'>{html.escape(str(uid))}</a></h3>"
    heading += f"<p>{html.escape(question)} {gold}</p>"
    return f"{heading}<div class='answers'>{shown}</div>"


def _last(answers: Frame, run: str) -> Frame:
    """A run's last answers by question."""
    of_run = answers[answers["run"] == run]
    return of_run[of_run["step"] == of_run["step"].max()].set_index("uid")


def _chosen(right: Mapping[str, Sequence[bool]]) -> list[str]:
    """Ids of the questions to show, of whether each arm is right by question."""
    split = sorted(right, key=lambda uid: (abs(sum(right[uid]) / len(right[uid]) - 0.5), uid))
    split = [uid for uid in split if 0 < sum(right[uid]) < len(right[uid])][: SHOWN - 2]
    all_right = next((uid for uid in sorted(right) if all(right[uid])), None)
    none_right = next((uid for uid in sorted(right) if not any(right[uid])), None)
    return [*split, *(uid for uid in (all_right, none_right) if uid is not None)]


def _answer(arms: str, row: Json) -> str:
    kind = "right" if row["right"] else "wrong"
    outcome = kind if kind == "right" or not row["outcome"] else str(row["outcome"]).replace("_", " ")
    cut = ", cut" if row["truncated"] else ""
    return (
        f"<article class='answer {kind}'><header><span>{html.escape(arms)}</span>"
        f"<b>{html.escape(outcome)}</b></header><pre>{html.escape(str(row['completion']))}</pre>"
        f"<small class='quiet'>{row['tokens']} tokens{cut}</small></article>"
    )
