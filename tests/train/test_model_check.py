"""The self-test at load: what it lets through, what it finds, and that it leaves nothing behind."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
import torch

from mirrorpo.model import cuts, prefix
from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Pretrained
from mirrorpo.model.lora import Lora
from mirrorpo.model.prefix import obstacle
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.rollout import cache, native
from mirrorpo.tools.model_table import loaded
from mirrorpo.train import model_check as tested
from mirrorpo.train.model_check import WAYS, checked, model_check, try_passes

Planted = Callable[[pytest.MonkeyPatch], None]


def tiny(**changes: Any) -> LanguageModel:
    settings = {
        "path": "mirrorpo:tiny", "revision": None, "dtype": "float32", "attention": "sdpa", "lora": None,
        "gradient_checkpointing": False, "prompt": PlainPrompt(instruct=False),
    }  # fmt: skip
    return Pretrained(**(settings | changes)).load(torch.device("cpu"), 0, lambda: [])


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny()


def test_the_shipped_model_is_read_rightly_in_every_way(model: LanguageModel) -> None:
    check = model_check(model, WAYS)
    assert not check.closed and set(check.gaps) == set(WAYS) and max(check.gaps.values()) < 1e-4


def test_a_head_of_rounded_operands_is_tried_exactly_and_as_the_run_reads_it(model: LanguageModel) -> None:
    rounded = replace(model, head_precision="bf16_in")
    rounded.check_head()
    views = [(view.dtype, view.head_precision) for view in tested._views(rounded)]
    assert views == [(torch.float32, "float32"), (torch.float32, "bf16_in")]
    check = model_check(rounded, ["padded", "pad", "gradient"])
    # Above what float32 gives and float32's bound allows, below the bound of half precision.
    assert not check.closed and 1e-5 < check.gaps["padded"] < 0.02, check


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_no_trace(training: bool) -> None:
    model = with_adapter(tiny(), Lora(rank=2, alpha=4, dropout=0.1, targets=["q_proj"]), 0)
    network = model.network.train(training)
    torch.rand(1)
    random = torch.get_rng_state()
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in network.named_parameters()}
    assert not model_check(model, WAYS).closed
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training == training for module in network.modules())
    for name, parameter in network.named_parameters():
        values, trained = before[name]
        assert torch.equal(parameter, values) and parameter.requires_grad == trained, name
        assert parameter.grad is None, name


def test_rows_are_dropped_while_others_go_on_and_the_cache_grows(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    grown: list[Any] = []
    select, store = cache.Blocks.select, cache.Blocks._store

    def counted(self: Any, rows: cache.Selection) -> None:
        dropped.append(len(rows.order))
        select(self, rows)

    monkeypatch.setattr(cache.Blocks, "select", counted)
    monkeypatch.setattr(cache.Blocks, "_store", staticmethod(lambda *a: grown.append(a) or store(*a)))
    assert not model_check(model, ["sample"]).closed
    assert dropped and min(dropped) > 0
    # Keys and values of each layer once when they start; what is more are blocks that were full.
    assert len(grown) > 2 * model.causal_lm.config.num_hidden_layers


def rows_in_another_order(patch: pytest.MonkeyPatch) -> None:
    right = native.in_blocks

    def wrong(*arguments: Any) -> Any:
        rows = right(*arguments)
        rows.select(cache.Selection.of(range(5, -1, -1), torch.device("cpu")))
        return rows

    patch.setattr(native, "in_blocks", wrong)


def nothing_hidden(patch: pytest.MonkeyPatch) -> None:
    right = cuts._mask
    patch.setattr(
        cuts, "_mask", lambda prompt, seen, start, end, *rest: right(prompt, seen, start, start, *rest)
    )


def positions_by_index(patch: pytest.MonkeyPatch) -> None:
    right = tested.read_completions

    def wrong(model: Any, batch: Any, **settings: Any) -> Any:
        return right(model, replace(batch, prompt_present=torch.ones_like(batch.prompt_present)), **settings)

    patch.setattr(tested, "read_completions", wrong)


def no_gradient_into_prompts(patch: pytest.MonkeyPatch) -> None:
    right = prefix.Prefix._joined
    patch.setattr(prefix.Prefix, "_joined", lambda self, start, new: right(self, start.detach(), new))


def a_weight_left_out(patch: pytest.MonkeyPatch) -> None:
    right = tested.merged
    patch.setattr(tested, "merged", lambda model: list(right(model))[1:])


def an_embedding_for_none(patch: pytest.MonkeyPatch) -> None:
    right = tested.gradient_times_embedding
    patch.setattr(tested, "gradient_times_embedding", lambda *a, **k: right(*a, **k) * 1.1)


@pytest.mark.parametrize(
    ("way", "planted"),
    [
        ("sample", rows_in_another_order),
        ("direct", nothing_hidden),
        ("padded", positions_by_index),
        ("merge", a_weight_left_out),
        ("gradient", an_embedding_for_none),
    ],
)
def test_a_planted_fault_is_refused_naming_the_model_and_a_cure(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, way: Any, planted: Planted
) -> None:
    planted(monkeypatch)
    with pytest.raises(
        ValueError, match=rf"^model\.path: Qwen3ForCausalLM does not allow .*; {tested.CURES[way]}"
    ):
        checked(model, [way] if way != "padded" else [], shared_prefix="never", train_noise=None)


def test_prompts_are_not_shared_where_the_gradient_would_be_wrong(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gradient_into_prompts(monkeypatch)
    without, check = checked(model, [], shared_prefix="auto", train_noise=None)
    assert "shared" in check.closed and obstacle(without) and not obstacle(model)
    assert any(note.startswith("shared_prefix is off for Qwen3ForCausalLM") for note in without.notes)


def test_noise_in_train_mode_is_refused_unless_it_is_wanted(model: LanguageModel) -> None:
    @contextlib.contextmanager
    def noisy() -> Iterator[None]:
        def forward(_module: Any, _inputs: Any, output: Any) -> Any:
            return output * 1.5 if model.network.training else output

        with model.causal_lm.get_decoder().layers[0].mlp.register_forward_hook(forward):
            yield

    with noisy():
        with pytest.raises(ValueError, match=r"reading in train mode.*model\.train_noise=own"):
            checked(model, [], shared_prefix="never", train_noise=None)
        checked(model, [], shared_prefix="never", train_noise="own")


@pytest.mark.parametrize(
    ("name", "needs", "said"),
    [
        ("rwkv", [], "RwkvForCausalLM does not allow reading rows of unlike length together"),
        (
            "gpt_neo_local",
            ["pad"],
            "GPTNeoForCausalLM does not allow hiding spans by masking=pad: it forgets",
        ),
        ("bloom", ["block"], "BloomForCausalLM does not allow hiding spans by masking=block: it weighs keys"),
        ("mpt", ["delete"], r"MptForCausalLM .* \(ALiBi\)"),
        ("qwen3_5_text", ["direct"], "Qwen3_5ForCausalLM does not allow .*: it keeps a state in its cache"),
        (
            "bloom",
            ["gradient"],
            "BloomForCausalLM does not allow gradients .*: it is zero",
        ),
        ("minimax", ["sample"], "MiniMaxForCausalLM does not allow sampling .*; use rollout=vllm"),
    ],
)
def test_what_an_architecture_does_not_allow_is_refused_by_its_name(name: str, needs: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked(loaded(name), needs, shared_prefix="never", train_noise=None)


def test_an_architecture_that_is_no_decoder_with_a_head_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"model\.path: Llama4ForCausalLM cannot be read as a decoder"):
        loaded("llama4_text")


def test_weights_that_are_no_numbers_are_refused(model: LanguageModel) -> None:
    weight = model.causal_lm.get_decoder().layers[-1].mlp.down_proj.weight
    kept = weight.detach().clone()
    try:
        weight.data[0, 0] = float("nan")
        with pytest.raises(
            ValueError, match=r"model\.path: Qwen3ForCausalLM gives logits that are no numbers"
        ):
            model.check_head()
    finally:
        weight.data.copy_(kept)


def test_passes_are_tried_without_a_trace_and_only_a_strict_torchs_refusals_come_out(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, weights = torch.get_rng_state(), [p.detach().clone() for p in model.network.parameters()]
    tried: list[str] = []

    def refuse(*_: object) -> None:
        tried.append("sample")
        raise RuntimeError(
            "kthvalue CUDA does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'"
        )

    def fail(*_: object) -> None:
        tried.append("direct")
        raise RuntimeError("the architecture does not allow it")

    backward = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *args, **more: tried.append("backward") or backward(*args, **more)
    )
    try_passes(model, ["sample", "merge"])
    monkeypatch.setitem(tested.TRIALS, "direct", fail)  # type: ignore[arg-type]
    try_passes(model, ["direct"])
    monkeypatch.setitem(tested.TRIALS, "sample", refuse)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="kthvalue CUDA"):
        try_passes(model, ["direct", "sample"])
    # A pass may be several calls of backward.
    assert [name for name, _ in groupby(tried)] == ["backward", "direct", "backward", "direct", "sample"]
    assert torch.equal(torch.get_rng_state(), random)
    for parameter, before in zip(model.network.parameters(), weights, strict=True):
        assert parameter.grad is None and torch.equal(parameter, before)
