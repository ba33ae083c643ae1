import json
import math
from pathlib import Path

import pytest
import torch
from cli import SMALL, folder, rows, succeeded, train
from completions import completion_of

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.core.span import ScoredSpan, Span
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.collector import Answer
from mirrorpo.train.credit_metrics import credit_metrics, credit_row, gradient_shares


def batch(*lengths: int, logprob: float = math.log(0.75)):
    completions = [completion_of([2] * n, logprob=logprob) for n in lengths]
    return collate(completions, [1.0] * len(lengths), pad_id=0, mask_truncated=False)


SPANS = [
    ScoredSpan(row=0, span=Span(0, 2, "calculation"), drop=4.0),
    ScoredSpan(row=0, span=Span(2, 3, "sentence"), drop=-1.0),
    ScoredSpan(row=0, span=Span(4, 6, "calculation"), drop=2.0),
    ScoredSpan(row=2, span=Span(1, 2, "calculation"), drop=6.0),
]


def test_drops_are_averaged_by_kind_by_place_and_at_the_end():
    found = credit_metrics(SPANS, batch(8, 8, 4), torch.ones(3), torch.ones(3, 8))
    assert found["credit/spans"] == 2.0 and found["credit/distractors"] == 0.25
    assert found["credit/drop_calculation"] == 4.0 and found["credit/drop_sentence"] == -1.0
    assert (
        found["credit/position_1"] == 5.0
        and found["credit/position_2"] == 2.0
        and "credit/position_3" not in found
    )
    assert found["credit/last"] == 4.0


def test_the_gradients_shares_follow_weights_advantages_and_surprise_and_make_one():
    weights = torch.ones(3, 8)
    weights[0, :2] = 3.0
    found = credit_metrics(SPANS, batch(8, 8, 4), torch.tensor([1.0, 5.0, -2.0]), weights)
    # Completions 0 and 2 were scored: 3 + 3 + 6 x 1 and 4 x 2, each times 1 - 0.75.
    assert found["credit/gradient_calculation"] == pytest.approx((3 + 3 + 1 + 1 + 2) / (12 + 8))
    assert found["credit/gradient_sentence"] == pytest.approx(1 / 20) and found[
        "credit/gradient_rest"
    ] == pytest.approx(9 / 20)
    assert found["credit/tokens_calculation"] == 5 / 12


def test_every_token_with_an_advantage_is_of_one_kind_whatever_is_scored():
    texts = ["1+1=2 so\n---\n#### 2", "#### 7", "9+9=18"]
    all_offsets = [
        TokenOffsets(text=text, offsets=[(place, place + 1) for place in range(len(text))]) for text in texts
    ]
    weights = torch.ones(3, len(texts[0]))
    weights[0, :5] = 2.0
    found = gradient_shares(all_offsets, batch(*map(len, texts)), torch.tensor([1.0, -1.0, 0.0]), weights)
    # Of 19 + 6 tokens: the equation has 5, the rule 3, the two answers 6 each; the third completion moves
    # nothing.
    assert found == pytest.approx(
        {
            "credit/all_tokens_calculation": 5 / 25,
            "credit/all_tokens_format": 3 / 25,
            "credit/all_tokens_answer": 12 / 25,
            "credit/all_tokens_other": 5 / 25,
            "credit/all_gradient_calculation": 10 / 30,
            "credit/all_gradient_format": 3 / 30,
            "credit/all_gradient_answer": 12 / 30,
            "credit/all_gradient_other": 5 / 30,
        }
    )
    assert gradient_shares(all_offsets, batch(*map(len, texts)), torch.zeros(3), weights) == {}


def test_a_drop_too_small_to_say_anything_is_no_distractor_and_sentences_have_no_place():
    spans = [
        ScoredSpan(row=0, span=Span(0, 2, "sentence"), drop=-0.009),
        ScoredSpan(row=0, span=Span(2, 4, "sentence"), drop=-0.011),
    ]
    found = credit_metrics(spans, batch(8), torch.ones(1), torch.ones(1, 8))
    assert found["credit/distractors"] == 0.5 and not any(
        name.startswith(("credit/position", "credit/last")) for name in found
    )


def test_nothing_scored_says_nothing():
    assert credit_metrics([], batch(4), torch.ones(1), torch.ones(1, 4)) == {}


def test_a_row_of_the_page_is_plain_data_with_a_missing_verdict_as_null():
    prompt = Prompt(uid="q", question="?", gold="2", demonstration="")
    completion = completion_of([2, 3], uid="q", text="ab")
    verdict = Verdict(reward=math.nan, strict=False, flexible=False, correct=False, outcome="unverifiable")
    answer = Answer(
        prompt=prompt,
        rendered="?",
        completion=completion,
        verdict=verdict,
        reward=math.nan,
    )
    row = credit_row(
        answer,
        TokenOffsets(text="ab", offsets=[(0, 1), (1, 2)]),
        torch.tensor([1.0, 0.123456, 9.0]),
        [SPANS[0], SPANS[3]],
        0,
    )
    assert json.loads(json.dumps(row, allow_nan=False)) == {
        "uid": "q",
        "question": "?",
        "gold": "2",
        "outcome": "unverifiable",
        "reward": None,
        "text": "ab",
        "offsets": [[0, 1], [1, 2]],
        "weights": [1.0, 0.1235],
        "spans": [{"start": 0, "end": 2, "kind": "calculation", "drop": 4.0}],
    }


def test_a_run_logs_importance_by_place_and_leaves_weights_to_look_at(tmp_path: Path):
    succeeded(
        train(
            *SMALL,
            "weighting=counterfactual_downstream",
            "max_new_tokens=100",
            "eval_questions=0",
            f"out={tmp_path}",
            cwd=tmp_path,
        )
    )
    run = folder(tmp_path)
    last = rows(run / "metrics.jsonl")[-1]
    assert last["credit/position_1"] > 0 and 0 <= last["credit/distractors"] <= 1 and last["weight/max"] > 1
    shown = rows(run / "credit.jsonl")
    assert all(len(row["weights"]) == len(row["offsets"]) for row in shown)
    assert any(row["spans"] for row in shown)


def test_completions_without_a_trained_token_or_an_advantage_are_not_scored_and_keep_ones(tmp_path: Path):
    # Every completion is cut off and masked: nothing is scored, and nothing divides by zero.
    overrides = (
        *SMALL,
        "weighting=counterfactual_downstream",
        "max_new_tokens=20",
        "algo.rollout_rule.mask_truncated=true",
        "steps=1",
        "eval_questions=0",
    )
    succeeded(train(*overrides, f"out={tmp_path}", cwd=tmp_path))
    last = rows(folder(tmp_path) / "metrics.jsonl")[-1]
    assert last["completion/truncated"] > 0.5 and last["completion/trained"] < 1
    assert last["weight/max"] == 1 and not any(name.startswith("credit/drop") for name in last)
