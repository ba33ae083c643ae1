"""Compiled decoder layers give what plain ones do, however a batch is read, by graphs that they share.

In the quick tests torch traces the layers and the graphs run as they are; in the slow ones a C++ compiler
makes code of them.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import model, rollout
from torch import Tensor

from mirrorpo.core.cut import Cut
from mirrorpo.model import compiled
from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.compile_layers import with_compiled_layers
from mirrorpo.model.compiled import compile_requirements, compiling, decoder_layers
from mirrorpo.model.cuts import read_cuts
from mirrorpo.model.forward import read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import reference
from mirrorpo.model.lora import Lora
from mirrorpo.model.saliency import gradient_times_embedding

# torch has much to say of what it traces.
pytestmark = pytest.mark.filterwarnings("ignore")

BATCH = rollout()
CUTS = [Cut(row=3, start=1, end=3, first=4, last=7), Cut(row=0, start=0, end=2, first=2, last=5)]


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    from torch._dynamo import config as dynamo
    from torch._dynamo import reset
    from torch.fx.experimental import _config as symbols

    with (
        dynamo.patch(recompile_limit=8, fail_on_recompile_limit_hit=False),
        symbols.patch(use_duck_shape=True),
    ):
        yield
    reset()
    compiled._graphs.cache_clear()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, torch_as_it_was: None) -> list[torch.fx.GraphModule]:
    """The graphs that are made, which nothing is compiled of."""
    made: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "_backend", backend)
    return made


def small() -> LanguageModel:
    return model("qwen3")


def logprobs(policy: LanguageModel, rows_per_forward: Sequence[int] = ()) -> Tensor:
    return read_completions(policy, BATCH, temperature=1.0, logit_chunk=5, rows_per_forward=rows_per_forward)[
        0
    ].logprobs


def gradient(policy: LanguageModel, rows_per_forward: Sequence[int] = ()) -> Tensor:
    policy.network.zero_grad()
    read = logprobs(policy, rows_per_forward)
    (read * torch.linspace(-1, 1, len(read))).sum().backward()
    trained = [
        parameter.grad.flatten() for parameter in policy.network.parameters() if parameter.grad is not None
    ]
    return torch.cat([read.detach(), *trained])


def cut(policy: LanguageModel) -> Tensor:
    return torch.cat(
        [
            read_cuts(policy, BATCH, CUTS, masking=masking, temperature=1.0, logit_chunk=5)[1]
            for masking in ("pad", "block", "delete", "direct")
        ]
    )


def without_gradient(policy: LanguageModel) -> Tensor:
    with torch.no_grad():
        return torch.cat([logprobs(policy), logprobs(policy, (3, 5))])


def owed(policy: LanguageModel) -> Tensor:
    return gradient_times_embedding(policy, BATCH, [1] * len(BATCH), temperature=1.0, logit_chunk=5)


# How a batch is read, in which mode, and the graphs of it that were not there before.
READ: Sequence[tuple[str, Callable[[LanguageModel], Tensor], bool, int]] = (
    ("rows by themselves, learning", gradient, True, 1),
    ("prompts shared, learning", lambda policy: gradient(policy, (3, 5)), True, 2),
    ("metrics of rows without a gradient", without_gradient, True, 3),
    ("scoring", without_gradient, False, 3),
    ("cuts", cut, False, 2),
    ("gradient times embedding", owed, False, 1),
)


@pytest.mark.slow
def test_every_way_of_reading_is_what_it_was_and_all_layers_share_its_graph(
    graphs: list[torch.fx.GraphModule],
) -> None:
    compiled.set_up()
    plain = replace(small(), network=copy.deepcopy(small().network))
    policy = replace(plain, compiled=True)
    for name, read, training, count in READ:
        policy.network.train(training)
        before = len(graphs)
        wanted = read(plain)
        assert len(graphs) == before, name
        torch.testing.assert_close(read(policy), wanted, rtol=0, atol=0, msg=name)
        assert len(graphs) - before == count, (name, len(graphs) - before)
    # Nothing of it stays: not in names, not in a copy, which runs compiled too.
    assert [*policy.network.state_dict()] == [*small().network.state_dict()]
    start = reference(policy)
    assert start.compiled and torch.equal(without_gradient(start), without_gradient(plain))
    assert all(layer._compiled_call_impl is None for layer in decoder_layers(policy.causal_lm))


@pytest.mark.slow
def test_an_adapter_and_its_reference_in_half_precision_too(graphs: list[torch.fx.GraphModule]) -> None:
    lora = Lora(rank=2, alpha=4, dropout=0.0, targets=None)
    bare = replace(small(), network=copy.deepcopy(small().network), dtype=torch.bfloat16)
    plain = with_adapter(bare, lora, 0)
    for name, parameter in plain.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    policy = with_compiled_layers(plain)
    assert policy.compiled and graphs
    for rows_per_forward in ((), (3, 5)):
        wanted = gradient(plain, rows_per_forward)
        torch.testing.assert_close(gradient(policy, rows_per_forward), wanted, rtol=0, atol=0)
    start = reference(policy)
    assert start.adapter_off
    with torch.no_grad():
        off, on = logprobs(start), logprobs(policy)
        assert torch.equal(off, logprobs(replace(start, compiled=False))) and not torch.equal(off, on)


def test_sizes_of_all_kinds_come_out_of_one_graph(graphs: list[torch.fx.GraphModule]) -> None:
    policy = with_compiled_layers(small())
    before = len(graphs)
    with torch.no_grad():
        for rows, length in ((2, 5), (3, 3), (7, 2), (16, 16), (5, 33)):
            ids = torch.arange(rows * length).reshape(rows, length) % 40
            present = (
                torch.arange(length) < torch.tensor([length, *[max(length - 1, 1)] * (rows - 1)])[:, None]
            )
            positions = (present.cumsum(dim=1) - 1).clamp(min=0)
            wanted = small().hidden(ids, present, positions)
            torch.testing.assert_close(policy.hidden(ids, present, positions), wanted, rtol=0, atol=0)
    assert len(graphs) - before == 1


def test_what_cannot_be_compiled_is_refused_in_a_line(graphs: list[torch.fx.GraphModule]) -> None:
    policy = replace(small(), network=copy.deepcopy(small().network))
    layer = type(decoder_layers(policy.causal_lm)[0])

    class Talks(layer):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            print(*map(str, args))
            return super().forward(*args, **kwargs)

    for module in decoder_layers(policy.causal_lm):
        module.__class__ = Talks
    with pytest.raises(
        ValueError, match=r"^compile=layers: Talks cannot be compiled \(.+\); set compile=none$"
    ):
        with_compiled_layers(policy)


def test_more_graphs_than_the_limit_are_an_error_and_not_a_silence(
    graphs: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "GRAPHS", 2)
    compiled.set_up()
    policy = replace(small(), compiled=True)
    with pytest.raises(
        RuntimeError, match=r"^compile=layers: Qwen3DecoderLayer is called in more than 2 ways"
    ):
        for _, read, training, _ in READ:
            policy.network.train(training)
            read(policy)


def test_settings_and_machines_that_allow_it_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusals(*needs: Any, compile: str = "layers", **of_model: object) -> list[str]:
        return list(compile_requirements({"compile": compile, "model": of_model}, needs))

    assert refusals() == [] and refusals("attention", compile="none", gradient_checkpointing=True) == []
    (line,) = refusals(gradient_checkpointing=True)
    assert line.startswith("compile=layers with model.gradient_checkpointing=true: ")
    (line,) = refusals("attention")
    assert line.startswith("compile=layers with a weighting that reads attention: ")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    (line,) = refusals()
    assert line.startswith("compile=layers: it needs a C++ compiler, and there is no g++, clang++, c++ here")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_a_compiler_losses_and_gradients_agree_and_are_the_same_each_time(torch_as_it_was: None) -> None:
    from torch._inductor import metrics

    policy = with_compiled_layers(replace(small(), network=copy.deepcopy(small().network)))
    assert metrics.generated_kernel_count > 0
    for name, read, training, _ in READ:
        policy.network.train(training)
        wanted = read(replace(policy, compiled=False))
        got = read(policy)
        gap = float((got - wanted).abs().max() / wanted.abs().max())
        assert gap < 1e-5, (name, gap)
        assert torch.equal(read(policy), got), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_code_does_not_depend_on_the_sizes_that_came_first(
    torch_as_it_was: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from torch._inductor import config
    from torch._inductor.codecache import PyCodeCache

    written: list[str] = []
    load = PyCodeCache.write.__func__

    def kept(cls: Any, source: str, *args: Any, **kwargs: Any) -> Any:
        written.append(source)
        return load(cls, source, *args, **kwargs)

    monkeypatch.setattr(PyCodeCache, "write", classmethod(kept))
    made: list[list[str]] = []
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    # How a loop is divided among them is decided by its length.
    torch.set_num_threads(2)
    for rows, length in ((2, 9), (40, 120)):
        torch._dynamo.reset()
        compiled._graphs.cache_clear()
        written.clear()
        compiled.set_up()
        policy = replace(small(), compiled=True)
        ids = torch.ones(rows, length, dtype=torch.long)
        present = torch.ones_like(ids).bool()
        present[1, -1] = False
        with config.patch(fx_graph_cache=False):
            policy.hidden(ids, present, (present.cumsum(dim=1) - 1).clamp(min=0)).sum().backward()
        made.append([kernels(source) for source in written])
    assert made[0] == made[1] and made[0]


def kernels(source: str) -> str:
    """The C++ of a module that inductor wrote, without its comments."""
    lines = source.split("async_compile.wait")[0].splitlines()
    return "\n".join(line for line in lines if "#" not in line or "#pragma" in line)


def test_layers_are_plain_outside_of_a_reading() -> None:
    policy = replace(small(), compiled=True)
    with pytest.raises(ZeroDivisionError), compiling(policy.causal_lm):
        assert all(layer._compiled_call_impl is not None for layer in decoder_layers(policy.causal_lm))
        raise ZeroDivisionError
    assert all(layer._compiled_call_impl is None for layer in decoder_layers(policy.causal_lm))
