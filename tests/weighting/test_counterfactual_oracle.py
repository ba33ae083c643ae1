"""Drops through the real scorer against one plain forward pass a span: no cache, no padding, a batch of
one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import pytest
import torch
from cli import ROOT
from completions import completion_of
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from small_models import ARCHITECTURES, network_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mirrorpo.config.schema import register, resolved
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import Masking
from mirrorpo.core.seeds import derive
from mirrorpo.core.span import ScoredSpan
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import finish
from mirrorpo.optim.adamw import AdamW
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import build_penalty, build_weighting
from mirrorpo.train.learner import Learner

Target = Literal["answer", "downstream"]
Score = Literal["sum", "mean", "probability"]
CPU, TEMPERATURE = torch.device("cpu"), 0.7


@dataclass(frozen=True, kw_only=True)
class Written:
    """A completion, and what its spans are.

    Attributes:
        hidden: what is hidden of it, one at a time.
        ended: it was not cut off.
        acts: its advantage is not zero.
    """

    prompt: str
    text: str
    hidden: Sequence[str]
    ended: bool = True
    acts: bool = True


SAM, MIA = (
    "Sam has 7 toys.\n",
    "Mia has 3 eggs. Mia buys 4 more. Soon Mia has 2 times as many. How many eggs does Mia have?\n",
)
WORKED = {"text": "3 + 4 = 7\n7 * 2 = 14\n#### 14", "hidden": ["3 + 4 = 7", "7 * 2 = 14"]}
TINY = [
    Written(prompt=MIA, **WORKED),
    Written(
        prompt=MIA,
        text="Mia has 3 + 4 = 7 eggs. Soon Mia has 2 times as many.\n7 * 2 = 14#### 14",
        hidden=["3 + 4 = 7", "Soon Mia has 2 times as many.", "7 * 2 = 14"],
    ),
    Written(prompt=SAM, text="2 * 5 = 10\n#### ", hidden=["2 * 5 = 10"]),
    Written(prompt=SAM, text="3 + 4 = 7\n", hidden=[]),
    Written(prompt=SAM, text="#### 14", hidden=[]),
    Written(prompt=SAM, **WORKED),
    Written(prompt=MIA, **WORKED),
    Written(prompt=SAM, text="7 + 1 = <<7+1=8>>8\n#### 8", hidden=[], acts=False),
    Written(
        prompt="Tom?\n",
        text="7 + 1 = <<7+1=8>>8\n9 - 8 = 1\n#### 12\n8 - 2 = 6",
        hidden=["7 + 1 = <<7+1=8>>8", "9 - 8 = 1"],
        ended=False,
    ),
]
EUROS = {"text": "3 × 4 = 12 €\n12 + 2 = 14 €\n#### 14 €", "hidden": ["3 × 4 = 12", "12 + 2 = 14"]}
BYTES = [
    Written(prompt="Was kosten 3 Brötchen für 4 € und noch 2 €?\n", **EUROS),
    Written(
        prompt="日本？",
        text="Die Bäckerei verkauft 😀 Brötchen.\n日本語の文章です。 4 ÷ 2 = 2#### 2",
        hidden=["Die Bäckerei verkauft 😀 Brötchen.", "4 ÷ 2 = 2"],
    ),
    Written(prompt="日本？", text="2 × 5 = 10\n####", hidden=["2 × 5 = 10"]),
    Written(prompt="日本？", text="3 × 4 = 12 €", hidden=[]),
    Written(prompt="日本？", text="#### 14 €", hidden=[]),
    Written(prompt="日本？", **EUROS),
    Written(prompt="Was kosten 3 Brötchen für 4 € und noch 2 €?\n", **EUROS),
    Written(prompt="日本？", text="7 + 1 = 8\n#### 8", hidden=[], acts=False),
    Written(
        prompt="Äh",
        text="½ × 4 = 2 😀\n9 - 8 = 1\n#### 12\n8 - 2 = 6 €",
        hidden=["½ × 4 = 2", "9 - 8 = 1"],
        ended=False,
    ),
]
CORPUS = [
    "Was kosten 12 Brötchen? Die Bäckerei verkauft 3 + 4 = 7 Brötchen, 9 - 2 = 7.\n#### 7",
    "日本語の文章です。日本？",
    "#### 14\n#### 8",
]


@cache
def parts() -> dict[str, Any]:
    """The shipped model and the papers' weighting, from the command line's config."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["model=tiny", "weighting=counterfactual"])
        nodes = resolved(cfg)
    return {axis: instantiate(nodes[axis], _convert_="all") for axis in ("model", "algo")} | {
        "weighting": build_weighting(nodes["weighting"]),
        "penalty": build_penalty(nodes["divergence"]),
    }


def byte_level() -> LanguageModel:
    """Random weights and merges learnt over bytes, which leave rarer characters in pieces; the end of
    sequence is the pad.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", clean_up_tokenization_spaces=False
    )
    special = {"vocab_size": len(tokenizer), "eos_token_id": 0, "pad_token_id": None}
    network = network_of("llama", derive(0, "init"), **(ARCHITECTURES["llama"] | special))
    return finish(network, tokenizer, dtype=torch.float32, device=CPU, checkpointing=False)


@cache
def policy(kind: str) -> LanguageModel:
    return parts()["model"].load(CPU, 0, lambda: []) if kind == "tiny" else byte_level()


def written(kind: str) -> Sequence[Written]:
    return TINY if kind == "tiny" else BYTES


def encoded(kind: str, row: int) -> tuple[list[int], list[int]]:
    one, tokenizer = written(kind)[row], policy(kind).tokenizer
    prompt, answer = (tokenizer(text, add_special_tokens=False).input_ids for text in (one.prompt, one.text))
    assert tokenizer.decode(answer) == one.text
    return prompt, [*answer, tokenizer.eos_token_id] if one.ended else answer


def batch(kind: str) -> RolloutBatch:
    completions = []
    for row, one in enumerate(written(kind)):
        prompt, answer = encoded(kind, row)
        completions.append(completion_of(answer, prompt_ids=prompt, text=one.text, truncated=not one.ended))
    return collate(completions, [1.0] * len(completions), pad_id=policy(kind).pad_id, mask_truncated=False)


def learner(kind: str, tokens: int, **weighting: Any) -> Learner:
    return Learner(
        policy=policy(kind),
        reference=None,
        optimiser=AdamW(betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.0).build(policy(kind).network),
        algo=parts()["algo"],
        penalty=parts()["penalty"],
        weighting=replace(parts()["weighting"], **weighting),
        settings=UpdateSettings(
            temperature=TEMPERATURE,
            logit_chunk=7,
            tokens_per_micro_batch=tokens,
            tokens_per_call=None,
            shared_prefix="auto",
            updates_per_rollout=1,
            update_window="whole",
            max_grad_norm=0.0,
        ),
    )


@cache
def scored(kind: str, masking: Masking, target: Target, score: Score, tokens: int) -> Sequence[ScoredSpan]:
    weighting = {"masking": masking, "target": target, "score": score}
    return (
        learner(kind, tokens, **weighting)
        .weigh(batch(kind), torch.tensor([float(one.acts) for one in written(kind)]), 0)
        .spans
    )


def mark(kind: str, answer: Sequence[int]) -> int:
    """The token that writes the first character of the mark."""
    decode = policy(kind).decode
    where = decode(answer).rindex("####")
    return next(t for t in range(len(answer)) if len(decode(answer[: t + 1])) > where)


def logprobs(
    model: LanguageModel, prompt: list[int], answer: list[int], hidden: range, masking: Masking, since: int
) -> dict[int, float]:
    """By token, of all that are left, in one pass over prompt and completion; what is read begins at
    `since`.
    """
    left = [t for t in range(len(answer)) if masking in ("pad", "direct") or t not in hidden]
    there = left if masking == "delete" else list(range(len(answer)))
    ids = [*prompt, *(model.pad_id if masking == "pad" and t in hidden else answer[t] for t in there)]
    seen = [1] * len(prompt) + [int(masking != "block" or t not in hidden) for t in there]
    inputs = {
        name: torch.tensor([row])
        for name, row in (("input_ids", ids), ("attention_mask", seen), ("position_ids", range(len(ids))))
    }
    if masking == "direct":
        # The states that read hide the span, those before them do not.
        sees = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        sees[len(prompt) + since - 1 :, len(prompt) + hidden.start : len(prompt) + hidden.stop] = False
        inputs["attention_mask"] = torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        logits = model.causal_lm(**inputs, use_cache=False).logits[0]
    table = (logits / TEMPERATURE).log_softmax(dim=-1)
    states = [len(prompt) - 1, *(len(prompt) + there.index(t) for t in left)]
    return {t: float(table[state, answer[t]]) for state, t in zip(states, left, strict=False)}


@cache
def naive(
    kind: str, row: int, start: int, end: int, masking: Masking, target: Target
) -> tuple[float, float, int]:
    """The sums with nothing and with the span hidden, and over how many tokens."""
    prompt, answer = encoded(kind, row)
    read = range(mark(kind, answer) + 1 if target == "answer" else end, len(answer))
    # Behind the span nothing stands between, and hiding it directly is hiding it.
    way = "block" if masking == "direct" and read.start == end else masking
    whole, without = (
        logprobs(policy(kind), prompt, answer, hidden, way, read.start)
        for hidden in (range(0), range(start, end))
    )
    return sum(whole[t] for t in read), sum(without[t] for t in read), len(read)


def naive_drop(kind: str, one: ScoredSpan, masking: Masking, target: Target, score: Score) -> float:
    whole, without, count = naive(kind, one.row, one.span.start, one.span.end, masking, target)
    if score == "probability":
        return float(torch.tensor([whole, without], dtype=torch.float64).exp().diff().neg())
    return (whole - without) / (count if score == "mean" else 1)


def hidden_text(kind: str, one: ScoredSpan) -> str:
    return policy(kind).decode(encoded(kind, one.row)[1][one.span.start : one.span.end]).strip()


kinds = pytest.mark.parametrize("kind", ["tiny", "bytes"])


@kinds
@pytest.mark.parametrize("tokens", [1, 150, 100_000])
@pytest.mark.parametrize(
    ("target", "score"),
    [
        ("answer", "sum"),
        ("answer", "mean"),
        ("answer", "probability"),
        ("downstream", "sum"),
        ("downstream", "mean"),
    ],
)
@pytest.mark.parametrize("masking", ["pad", "block", "delete", "direct"])
def test_a_spans_drop_is_the_difference_between_two_plain_forward_passes(
    kind: str, masking: Masking, target: Target, score: Score, tokens: int
) -> None:
    # The probability of an answer may be far below 1e-4.
    relative, absolute = (1e-2, 0.0) if score == "probability" else (0.0, 1e-4)
    for one in scored(kind, masking, target, score, tokens):
        expected = naive_drop(kind, one, masking, target, score)
        assert one.drop == pytest.approx(expected, rel=relative, abs=absolute), (
            f"{one}: {hidden_text(kind, one)!r}"
        )


def test_a_right_completion_is_above_its_groups_mean_though_the_wrong_ones_are_not_trained() -> None:
    rollout = batch("tiny")
    rewards = torch.zeros(len(rollout))
    rewards[0] = 1.0
    mask = rollout.mask & (rewards == 1.0)[:, None]
    credit = learner("tiny", 150, completions="correct").weigh(
        rollout.with_(rewards=rewards, mask=mask), rewards - rewards.mean(), 0
    )
    assert {span.row for span in credit.spans} == {0} and credit.weights[0].unique().numel() > 2


@kinds
def test_every_span_of_every_completion_that_acts_is_scored(kind: str) -> None:
    found = scored(kind, "pad", "answer", "sum", 150)
    assert [
        [hidden_text(kind, one) for one in found if one.row == row] for row in range(len(written(kind)))
    ] == [list(one.hidden) for one in written(kind)]


@kinds
def test_the_rollout_has_ragged_rows_twins_and_spans_at_both_edges_whose_drops_differ(kind: str) -> None:
    rollout, found = batch(kind), scored(kind, "pad", "downstream", "sum", 150)
    assert (
        len(set(rollout.prompt_present.sum(dim=1).tolist())) == 3
        and len(set(rollout.present.sum(dim=1).tolist())) > 4
    )
    assert any(one.span.start == 0 for one in found) and any(
        one.span.end == mark(kind, encoded(kind, one.row)[1]) for one in found
    )
    drops = [[one.drop for one in found if one.row == row] for row in range(len(written(kind)))]
    assert drops[0] == drops[6] != drops[5], "a twin has the same prompt too"
    assert max(abs(one.drop) for one in found) > 1.0
