"""Decoder layers whose forward and backward pass are compiled: one graph for all layers of a kind.

Only inside `compiling` does a layer run compiled, so that sampling, whose cache grows at every token, and the
network that everything is compared with stay as they are. The network itself is not changed: a copy, its
weights' names and what is saved of it know nothing of this.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, cast, no_type_check
from unittest.mock import patch

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from mirrorpo.core.network import CausalLM
from mirrorpo.core.protocols import Config, ModelNeed
from mirrorpo.model.past import PAST, Prefix

# Graphs of one kind of layer: modes, caches, masks, and sizes for which other code is made. Beyond it torch
# would go on without compiling, in silence; so it is an error.
GRAPHS = 64
# The size that heuristics are told in place of those at hand. Otherwise a run that goes on, whose first
# batch is another one, would compute in another order.
TYPICAL_SIZE = 128
COMPILERS = ("g++", "clang++", "c++")


def compile_requirements(config: Config, needs: Collection[ModelNeed]) -> Iterable[str]:
    """What the settings and this machine say against `compile=layers`.

    Args:
        config: of the run.
        needs: ways in which its parts read the model.
    """
    if config.get("compile", "none") == "none":
        return
    if config["model"].get("gradient_checkpointing"):
        yield (
            "compile=layers with model.gradient_checkpointing=true: a layer that is compiled keeps its own "
            "activations; set model.gradient_checkpointing=false or compile=none"
        )
    if "attention" in needs:
        yield (
            "compile=layers with a weighting that reads attention: the layers then give their weights away, "
            "which no graph can; choose another weighting, or set compile=none"
        )
    named = os.environ.get("CXX")
    candidates = (named,) if named else COMPILERS
    if not any(shutil.which(candidate) for candidate in candidates):
        yield (
            f"compile={config['compile']}: it needs a C++ compiler, and there is no {', '.join(candidates)} "
            "here; install one, or set compile=none"
        )


def set_up() -> None:
    """Tell torch, for this process, to compile sizes as symbols and never to go on without compiling."""
    from torch._dynamo import config as dynamo
    from torch.fx.experimental import _config as symbols

    dynamo.recompile_limit, dynamo.fail_on_recompile_limit_hit = GRAPHS, True
    # Two sizes that happen to be alike at first are two all the same.
    symbols.use_duck_shape = False


def decoder_layers(causal_lm: CausalLM) -> Sequence[torch.nn.Module]:
    """The layers of a network's decoder, in order; empty where `transformers` does not mark them."""
    modules = causal_lm.get_decoder().modules()
    return [module for module in modules if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def compiling(causal_lm: CausalLM) -> Iterator[None]:
    """Decoder layers run compiled inside the block; calls with a cache of another kind than ours do not."""
    layers = decoder_layers(causal_lm)
    graphs = cast("Any", layers)
    for index, layer in enumerate(graphs):
        layer._compiled_call_impl = partial(_call, layer, index)
    try:
        yield
    finally:
        for layer in graphs:
            layer._compiled_call_impl = None


def _call(layer: torch.nn.Module, index: int, *args: object, **kwargs: object) -> object:
    # In place of the layer's `__call__`.
    past = kwargs.pop(PAST, None)
    if past is None and not any(isinstance(value, Cache) for value in args):
        return _run(layer, args, kwargs, None, None)[0]
    kept = past.layers[index] if isinstance(past, Cache) and index < len(past.layers) else None
    if isinstance(kept, Prefix):
        return _run(layer, args, kwargs, kept.start, kept.rows)[0]
    if type(kept) is not DynamicLayer:
        return layer.forward(*args, **kwargs, **({PAST: past} if past is not None else {}))
    held = (kept.keys, kept.values) if kept.keys is not None and kept.keys.numel() else ()
    output, new = _run(layer, args, kwargs, held, None)
    kept.update(*new)
    return output


def _run(layer: torch.nn.Module, *inputs: object) -> tuple[Any, tuple[Tensor, ...]]:
    from torch._dynamo.exc import FailOnRecompileLimitHit

    try:
        return _graphs(type(layer))(layer, *inputs)
    except FailOnRecompileLimitHit as error:
        raise RuntimeError(
            f"compile=layers: {type(layer).__name__} is called in more than {GRAPHS} ways, and each needs a "
            "graph of its own; set compile=none"
        ) from error


# What is traced has no checks of its types, which tests put around the rest of this package.
@no_type_check
class _Keys:
    """Stands for a cache while a layer is traced: puts what is held in front, and keeps what is new."""

    def __init__(self, held: Sequence[Tensor], rows: Tensor | None) -> None:
        self.held, self.rows = held, rows
        self.new: tuple[Tensor, ...] = ()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.new = (key_states, value_states)
        if not self.held:
            return key_states, value_states
        return self._joined(self.held[0], key_states), self._joined(self.held[1], value_states)

    def _joined(self, held: Tensor, new: Tensor) -> Tensor:
        held = held.to(new.dtype)
        return torch.cat([held if self.rows is None else held.index_select(0, self.rows), new], dim=2)


@cache
def _graphs(kind: type[torch.nn.Module]) -> Callable[..., tuple[Any, tuple[Tensor, ...]]]:
    # One function for all layers of a kind; torch makes a graph of it for each way in which it is called.
    forward = kind.forward

    @no_type_check
    def run(
        layer: torch.nn.Module,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        held: Sequence[Tensor] | None,
        rows: Tensor | None,
    ) -> tuple[object, tuple[Tensor, ...]]:
        if held is None:
            return forward(layer, *args, **kwargs), ()
        keys = _Keys(held, rows)
        output = forward(layer, *args, **kwargs, **{PAST: keys})
        return output, keys.new if rows is None else ()

    return torch.compile(run, dynamic=True, fullgraph=True, backend=_backend)


def _backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    from torch._functorch import config as autograd
    from torch._inductor import config as inductor
    from torch._inductor.compile_fx import compile_fx

    with (
        _typical_sizes(),
        # The backward pass too, here and now.
        autograd.patch(force_non_lazy_backward_lowering=True),
        # Part of the key of what lies in inductor's own folder, where others put theirs.
        inductor.patch(unbacked_symint_fallback=TYPICAL_SIZE),
    ):
        return cast("Callable[..., Any]", compile_fx(graph, inputs))


@contextmanager
def _typical_sizes() -> Iterator[None]:
    # What only a heuristic asks for, and no guard would notice; and what would take a graph of its own.
    from torch._inductor.codegen.cpp import CppKernel
    from torch._inductor.sizevars import SizeVarAllocator

    plain, plain_sum = SizeVarAllocator.optimization_hint, CppKernel.need_use_acc_helper

    def hint(self: Any, expr: Any, fallback: int | None = None) -> int:
        if isinstance(expr, int) or not expr.free_symbols:
            return plain(self, expr, fallback)
        expr = expr.subs(self.inv_precomputed_replacements)
        return int(expr.subs(dict.fromkeys(expr.free_symbols, TYPICAL_SIZE)))

    def long_sum(self: Any, reduction_type: str, dtype: torch.dtype, use_scalar: bool) -> bool:
        # A sum over tokens is taken in the way that is exact for long ones.
        summed = self.call_ranges[self.reduction_depth :]
        if (
            reduction_type == "sum"
            and dtype == torch.float
            and any(len(size.free_symbols) for size in summed)
        ):
            return True
        return bool(plain_sum(self, reduction_type, dtype, use_scalar))

    with (
        patch.object(SizeVarAllocator, "optimization_hint", hint),
        patch.object(CppKernel, "need_use_acc_helper", long_sum),
    ):
        yield
