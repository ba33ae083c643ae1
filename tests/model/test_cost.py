"""FLOPs by the formula against those that torch counts, on small models and batches without padding."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from completions import completion_of
from small_models import model, model_of, network_of
from torch.utils.flop_counter import FlopCounterMode

from mirrorpo.core.batch import Prompt, RolloutBatch, RolloutRequest
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.distributed.collectives import ALONE
from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.cost import PassTokens, cutting, network_cost, reading, row_by_row, sampling
from mirrorpo.model.forward import read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.lora import Lora
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.native import Native
from mirrorpo.train.budget import PassMeter
from mirrorpo.train.old_policy import ForwardSettings, PolicyScorer

PROMPT, LENGTH, ROWS = 6, 5, 3


def batch(rows: int = ROWS) -> RolloutBatch:
    completions = [completion_of([2 + row] * LENGTH, prompt_ids=[7] * PROMPT) for row in range(rows)]
    return collate(completions, [0.0] * rows, pad_id=0, mask_truncated=False)


class Untracked(nullcontext[None]):
    parents = {"Global"}  # noqa: RUF012


def counted(run: Callable[[], object], *, by_modules: bool = True) -> int:
    """FLOPs of what runs, without those by which rotary embeddings make angles."""
    counter = FlopCounterMode(display=False)
    if not by_modules:
        # The hooks of its own bear no `autograd.grad`.
        counter.mod_tracker = Untracked()  # type: ignore[assignment]
    with counter:
        run()
    by_module = counter.get_flop_counts()
    angles = [sum(ops.values()) for name, ops in by_module.items() if name.endswith("rotary_emb")]
    return sum(by_module["Global"].values()) - sum(angles)


def beyond_causal(policy: LanguageModel, pairs: int, tokens: PassTokens) -> int:
    """FLOPs of the pairs that eager attention computes and masks away."""
    (flops,) = network_cost(policy).attention.values()
    return flops * (pairs - tokens.pairs(None))


def scorer(policy: LanguageModel) -> PolicyScorer:
    forward = ForwardSettings(
        temperature=0.7,
        logit_chunk=64,
        tokens_per_micro_batch=4096,
        prefix_sharing="always",
        tokens_per_call=1,
        ranks=ALONE,
        meter=PassMeter(),
    )
    return PolicyScorer(policy=policy, forward=forward)


BEHIND = LENGTH * (PROMPT + LENGTH)
SQUARE = (PROMPT + LENGTH) ** 2


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_passes_without_gradient_cost_what_torch_counts(kind: str) -> None:
    policy, rows = model(kind, attention="eager"), batch()
    shared = reading(rows, torch.arange(ROWS))
    cuts = [Cut(row=row, start=1, end=2, first=3, last=LENGTH) for row in (0, 2)]
    alone = row_by_row(rows, None)
    two = PROMPT**2 + 2 * BEHIND

    def cut(masking: Masking) -> tuple[Callable[[PolicyScorer], object], PassTokens]:
        return lambda use: use.cut(rows, cuts, masking), cutting(rows, cuts, masking)

    # Behind a cut: 3 tokens after one of them (pad), 2 after one (block), 2 after two that are read (direct).
    passes: dict[str, tuple[Callable[[PolicyScorer], object], PassTokens, int]] = {
        "logprobs": (lambda use: use.logprobs(rows), shared, PROMPT**2 + ROWS * BEHIND),
        "attention": (lambda use: use.importance(rows, [2] * ROWS, "attention"), alone, ROWS * SQUARE),
        "pad": (*cut("pad"), two + 2 * 3 * 10),
        "block": (*cut("block"), two + 2 * 2 * 9),
        "direct": (*cut("direct"), two + 2 * 2 * 10),
    }
    for name, (run, tokens, pairs) in passes.items():
        use = scorer(policy)
        flops = counted(lambda run=run, use=use: run(use))
        # What adds attention up is no pass of the network.
        sums = 2 * 2 * ROWS * LENGTH**2 if name == "attention" else 0
        assert flops - sums == use.forward.meter.flops + beyond_causal(policy, pairs, tokens), name


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_sampling_costs_what_torch_counts(kind: str) -> None:
    policy = replace(model(kind, attention="eager"), eos_ids=frozenset())
    engine = Native(rows_at_once=8, compact_at=0.5, check_every=1, cache_block=8, top_p=1.0)
    request = RolloutRequest(
        prompts=[Prompt(uid="", question="", gold="", demonstration="")],
        prompt_ids=[[7] * PROMPT],
        group_size=ROWS,
        max_new_tokens=LENGTH,
        temperature=0.7,
        seed=0,
    )
    tokens = sampling(engine.generate(policy, request))
    # A token behind its cache has no pair that is masked away.
    pairs = PROMPT**2 + ROWS * sum(PROMPT + step for step in range(1, LENGTH))
    flops = counted(lambda: engine.generate(policy, request))
    assert flops == network_cost(policy).forward(tokens) + beyond_causal(policy, pairs, tokens)


def backward(policy: LanguageModel, rows: RolloutBatch) -> None:
    outputs, _ = read_completions(policy, rows, temperature=0.7, logit_chunk=64, rows_per_forward=[ROWS])
    outputs.logprobs.sum().backward()


def test_an_update_costs_what_torch_counts() -> None:
    for kind in ("llama", "gpt2"):
        policy, rows = model(kind, attention="eager"), batch()
        tokens, meter = reading(rows, torch.arange(ROWS)), PassMeter()
        meter.add(policy, tokens, "weights")
        flops = counted(lambda policy=policy, rows=rows: backward(policy, rows))
        masked = beyond_causal(policy, PROMPT**2 + ROWS * BEHIND, tokens)
        assert flops == meter.flops + 3 * masked, kind
        policy.network.zero_grad()


def test_gradients_of_embeddings_alone_cost_what_torch_counts() -> None:
    # GPT-2 has no rotary embeddings.
    policy, rows = model("gpt2", attention="eager"), batch()
    use, tokens = scorer(policy), row_by_row(rows, [2] * ROWS)
    flops = counted(lambda: use.importance(rows, [2] * ROWS, "gradient"), by_modules=False)
    # The head's own gradient comes with it, and is not used.
    unused = 2 * network_cost(policy).head * tokens.read
    assert flops - unused == use.forward.meter.flops + 3 * beyond_causal(policy, ROWS * SQUARE, tokens)


def adapted() -> LanguageModel:
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    network = network_of("llama", attention="eager", vocab_size=40, initializer_range=0.4, **shape)
    frozen = model_of(network.requires_grad_(False))
    return with_adapter(frozen, Lora(rank=2, alpha=4, dropout=0.0, targets=None), 0)


def test_an_adapter_costs_its_own_weights_and_no_gradient_of_those_below_it() -> None:
    policy, rows = adapted(), batch()
    on, off = network_cost(policy), network_cost(policy.without_adapter())
    assert on.trained == on.weights - off.weights > 0 and off.trained == on.head_trained == 0
    tokens, meter = reading(rows, torch.arange(ROWS)), PassMeter()
    meter.add(policy, tokens, "weights")
    flops = counted(lambda: backward(policy, rows))
    masked = 3 * beyond_causal(policy, PROMPT**2 + ROWS * BEHIND, tokens)
    # Nothing is trained below the first layer, whose three projections need no gradient of their input.
    first = 2 * tokens.tokens * 3 * (16 * 16 + 16 * 2)
    assert flops == meter.flops + masked - first
    with torch.no_grad():
        reference = policy.without_adapter()
        flops = counted(lambda: read_completions(reference, rows, temperature=0.7, logit_chunk=64))
    alone = row_by_row(rows, [0] * ROWS)
    assert flops == off.forward(alone) + beyond_causal(policy, ROWS * SQUARE, alone)


def test_a_token_costs_the_experts_and_the_window_that_it_goes_through() -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    settings = {"num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 40, "head_dim": 8}
    experts = model_of(network_of("mixtral", **shape, **settings, num_key_value_heads=2))
    # Of a layer: four projections, the router, three matrices of each of two experts.
    assert network_cost(experts).weights == 2 * (4 * 16 * 16 + 16 * 4 + 2 * 3 * 16 * 24)
    windowed = network_cost(model("qwen3", windowed=True))
    assert set(windowed.attention) == {4, None}
    row = PassTokens(stretches=[(0, 6), (6, 9)], read=0)
    assert row.tokens == 9 and row.pairs(None) == 45 and row.pairs(4) == 1 + 2 + 3 + 6 * 4
    state = network_cost(model_of(network_of("mamba", attention="eager", hidden_size=16, vocab_size=40)))
    assert state.attention == {} and state.weights > 0
