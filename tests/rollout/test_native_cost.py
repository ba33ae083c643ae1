"""What `Native` does at a token beside the network's work, counted: casts in bfloat16, reads of a device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from engines import LENGTH, native, sample, scored_by_the_trainer, tiny
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout import cache
from mirrorpo.rollout import native as engine

READING = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero")
Planted = Callable[[pytest.MonkeyPatch], None]
# Compaction at every look that sees an end, after which the cache grows.
DROPPING = {"compact_at": 1e-6, "cache_block": 3}


def mixed(model_type: str = "qwen3", attention: str = "sdpa", **settings: Any) -> LanguageModel:
    """A small model that computes in bfloat16."""
    # Two heads of keys, so that a tensor over them is none of a single token.
    shape = {"num_key_value_heads": 2} | settings
    return replace(tiny(model_type, attention, **shape), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return mixed()


class Casts(TorchDispatchMode):
    """Tensors that are made again in another floating type: weights, and others by their shape."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.parameters = {p.data_ptr(): name for name, p in network.named_parameters()}
        self.weights: list[str] = []
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # In inference mode `to` comes as it was called.
        if (
            str(func).startswith(("aten._to_copy", "aten.to."))
            and out.dtype == torch.bfloat16 != args[0].dtype
        ):
            if name := self.parameters.get(args[0].data_ptr()):
                self.weights.append(name)
            else:
                self.shapes.append(tuple(args[0].shape))
        return out


def casts(model: LanguageModel, *, rows_at_once: int = 64, **request: Any) -> Casts:
    with Casts(model.network) as counted:
        sample(native(rows_at_once=rows_at_once, **DROPPING), model, **request)
    return counted


def cast_at_every_token(patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def inference(_device: torch.device) -> Iterator[None]:
        with torch.inference_mode():
            yield

    patch.setattr(engine, "_without_graph", inference)


def keys_as_they_come(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine, "_autocast_dtype", lambda _device: None)


def head_of_the_network(patch: pytest.MonkeyPatch) -> None:
    def logits(head: Any, hidden: Tensor) -> Tensor:
        return torch.nn.functional.linear(hidden, head.projection.weight)

    patch.setattr(engine, "_logits", logits)


def weights_are_cast_once(model: LanguageModel) -> bool:
    weights = casts(model, rows_at_once=6, max_new_tokens=3).weights
    assert weights, "autocast casts none"
    return len(weights) == len(set(weights))


def a_token_casts_tokens_alone(model: LanguageModel) -> bool:
    # Behind a prompt of one token nothing but the cache has more than one position.
    shapes = casts(model, prompt_ids=[[4]], max_new_tokens=5).shapes
    assert shapes, "autocast casts none"
    return all(1 in shape[1:-1] for shape in shapes if len(shape) > 2)


def logprobs_are_the_trainers_own(model: LanguageModel) -> bool:
    # With eager attention, most of whose numbers round alike whatever is computed beside them.
    eager = mixed(attention="eager", hidden_size=64, head_dim=32, initializer_range=0.2)
    completions = sample(native(**DROPPING), eager, group_size=8)
    trainer = [logprob for row in scored_by_the_trainer(eager, completions, 1.0) for logprob in row]
    ours = [logprob for completion in completions for logprob in completion.logprobs]
    return float((torch.tensor(ours) - torch.tensor(trainer)).abs().median()) < 1e-5


@pytest.mark.parametrize(
    ("fact", "planted"),
    [
        (weights_are_cast_once, cast_at_every_token),
        (a_token_casts_tokens_alone, keys_as_they_come),
        (logprobs_are_the_trainers_own, head_of_the_network),
    ],
)
def test_in_bfloat16(
    model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    fact: Callable[[LanguageModel], bool],
    planted: Planted,
) -> None:
    assert fact(model)
    planted(monkeypatch)
    assert not fact(model)


@pytest.mark.parametrize(
    "settings", [{}, {"model_type": "mistral", "sliding_window": 6}], ids=["all", "sliding"]
)
@pytest.mark.parametrize("planted", [cast_at_every_token, keys_as_they_come])
def test_what_is_not_cast_again_changes_no_digit(
    monkeypatch: pytest.MonkeyPatch, settings: Any, planted: Planted
) -> None:
    model = mixed(**settings)
    ours = sample(native(**DROPPING), model)
    planted(monkeypatch)
    assert sample(native(**DROPPING), model) == ours


class Reads(TorchDispatchMode):
    """Operations that would wait for a GPU: those whose result, or its shape, this process has to know."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.methods = ReadMethods(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        masked = name.startswith("aten.index") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.count += masked or name.startswith(
            ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero")
        )
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> "Reads":
        super().__enter__()
        self.methods.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.methods.__exit__(*error)
        super().__exit__(*error)


class ReadMethods(TorchFunctionMode):
    """Methods that read without an operation of their own."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads.count += func in (Tensor.tolist, Tensor.cpu, Tensor.numpy)
        return func(*args, **(kwargs or {}))


def reads(model: LanguageModel, **settings: Any) -> int:
    with Reads() as counted:
        sample(native(**settings), model, group_size=8)
    return counted.count


def finished_rows_looked_up(patch: pytest.MonkeyPatch) -> None:
    def closed_up(done: Sequence[bool]) -> list[int]:
        ended = torch.tensor(done)
        count = int((~ended).sum())
        order = torch.arange(count)
        order[ended[:count]] = (~ended[count:]).nonzero().squeeze(1) + count
        return order.tolist()

    patch.setattr(engine, "_closed_up", closed_up)


def moves_looked_up_by_each_layer(patch: pytest.MonkeyPatch) -> None:
    select = cache.Blocks.select

    def selected(self: cache.Blocks, rows: cache.Selection) -> None:
        (rows.order != torch.arange(len(rows.order))).nonzero()
        select(self, rows)

    patch.setattr(cache.Blocks, "select", selected)


def test_dropping_rows_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    # In float32, where both sample the same, and look at which rows have ended as often.
    model = tiny()
    without = reads(model, compact_at=1.0)
    assert reads(model, compact_at=1e-6) == without
    for planted in (finished_rows_looked_up, moves_looked_up_by_each_layer):
        with monkeypatch.context() as patch:
            planted(patch)
            assert reads(model, compact_at=1e-6) > without, planted.__name__


def test_a_look_reads_once() -> None:
    model = replace(tiny(), eos_ids=frozenset({999}))
    # What is beside them is read once a call: the results, and by transformers the prompts' padding.
    often, seldom = (reads(model, check_every=check_every) for check_every in (1, 4))
    assert often - seldom == (LENGTH - 1) - (LENGTH // 4 - 1)
    assert often <= LENGTH - 1 + 6


def test_no_graph_is_recorded_where_autocast_keeps_weights(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[bool] = []
    select = cache.Blocks.select

    def selected(self: cache.Blocks, rows: cache.Selection) -> None:
        recorded.extend(part.requires_grad for part in (self.keys, self.values) if part is not None)
        select(self, rows)

    monkeypatch.setattr(cache.Blocks, "select", selected)
    sample(native(**DROPPING), model, group_size=8)
    assert recorded and not any(recorded)


@pytest.mark.parametrize("trained", [True, False])
def test_in_float32_the_first_logits_are_the_networks_own_to_the_last_digit(trained: bool) -> None:
    model = tiny(hidden_size=128)
    head = model.head(1.0)
    head.projection.weight.requires_grad_(trained)
    ids = torch.arange(40).reshape(8, 5) % len(model.tokenizer)
    with torch.inference_mode():
        theirs = model.network(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        hidden = model.decoder(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        assert torch.equal(engine._first_logits(head, hidden), theirs)
