"""A self-test of a loaded model: a few tokens in every way that a run reads it, against the plain network.

It takes milliseconds on a small model and leaves nothing behind: no random number, no gradient, no mode.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor

from mirrorpo.core.batch import Completion, Prompt, RolloutBatch, RolloutRequest
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.network import Adapted
from mirrorpo.core.protocols import ModelNeed
from mirrorpo.core.seeds import undisturbed
from mirrorpo.core.tensors import integers
from mirrorpo.distributed.determinism import lacks_determinism
from mirrorpo.distributed.fsdp import weights
from mirrorpo.model.cuts import cut_obstacle, read_cuts
from mirrorpo.model.forward import read_completions
from mirrorpo.model.language_model import ADAPTER, FAILURES, LanguageModel
from mirrorpo.model.modes import evaluating, training
from mirrorpo.model.plain import (
    ordinary_ids,
    plain_attention,
    plain_cut,
    plain_gradient,
    plain_logprobs,
    takes_a_mask,
    vocabulary,
)
from mirrorpo.model.prefix import obstacle
from mirrorpo.model.saliency import attention_received, gradient_times_embedding
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.native import Native
from mirrorpo.rollout.weights import merged, plain

# Rows of unlike length in one pass; train mode; prompts computed once for their completions.
Way = Literal["padded", "train", "shared"] | ModelNeed
WAYS: Sequence[Way] = (
    "padded", "train", "shared", "sample", "merge", "pad", "block", "delete", "direct", "gradient",
    "attention",
)  # fmt: skip

# Largest gap in float32, in nats; mean gap in half precision, where a mixture of experts may choose otherwise
# at a token.
CLOSE, NEAR = 5e-3, 0.25
# Numbers of parameters whose gradient is compared: the first ones, below which everything else lies.
COMPARED = 2**22
LOGIT_CHUNK = 5
# Nats, far below any effect of a token.
VANISHED = 1e-3
# Sampling as it is tried: every fourth id ends a completion, rows are dropped at once, the cache grows often.
TRIED = Native(rows_at_once=64, compact_at=1e-6, check_every=1, cache_block=2, top_p=1.0)
TRIED_TOKENS, ENDS, FLAT = 10, 4, 32.0

# What to do where a way is not open.
CURES: Mapping[Way, str] = {
    "padded": "choose another model",
    "train": "set model.train_noise=own to train with that, or choose another model",
    "sample": "use rollout=vllm, or another model",
    "merge": "use rollout=native",
    "pad": "choose a weighting that hides no spans",
    "block": "choose a weighting that hides no spans",
    "delete": "choose a weighting that hides no spans",
    "direct": "choose a weighting that hides no spans",
    "gradient": "choose another weighting",
    "attention": "choose another weighting",
}
MEANS: Mapping[Way, str] = {
    "padded": "reading rows of unlike length together",
    "train": "reading in train mode",
    "shared": "sharing prompts among completions",
    "sample": "sampling with its own cache",
    "merge": "giving its weights to another engine",
    "pad": "hiding spans by masking=pad",
    "block": "hiding spans by masking=block",
    "delete": "hiding spans by masking=delete",
    "direct": "hiding spans by masking=direct",
    "gradient": "gradients with respect to its embeddings",
    "attention": "its attention weights",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCheck:
    """In which ways a model can be read.

    Attributes:
        gaps: how far a way that is open is from the network alone: nats, shares of a gradient.
        closed: the reason, for a way that is not open.
    """

    gaps: Mapping[Way, float]
    closed: Mapping[Way, str]

    def record(self) -> Mapping[str, str]:
        """For the manifest."""
        return {way: f"ok, {gap:.0e}" for way, gap in self.gaps.items()} | {
            way: f"no: {reason}" for way, reason in self.closed.items()
        }


def checked(
    model: LanguageModel,
    needs: Collection[ModelNeed],
    *,
    shared_prefix: str,
    train_noise: object,
) -> tuple[LanguageModel, ModelCheck]:
    """The model, known to be read rightly in every way that a run needs.

    Args:
        model: complete, in this process.
        needs: of the run's parts.
        shared_prefix: the setting; where prompts cannot be shared, passes are over full sequences.
        train_noise: the setting; where it leaves dropout on, train mode is not compared.

    Raises:
        ValueError: naming the architecture and what to choose instead.
    """
    left_out = {"train"} if train_noise else set[str]()
    left_out |= {"shared"} if shared_prefix == "never" else set[str]()
    always: Sequence[Way] = ("padded", "train", "shared")
    # What a run saves of an adapter is merged by whoever reads it.
    adapted = isinstance(model.network, Adapted)
    needed = {*always} - left_out | {*needs} | ({"merge"} if adapted else set[str]())
    check = model_check(model, [way for way in WAYS if way in needed])
    name = type(model.causal_lm).__name__
    for way, reason in check.closed.items():
        if way == "merge" and adapted:
            raise ValueError(
                f"model.lora.targets: {name} reads weights past its adapter: {reason}; name other projections"
            )
        if way != "shared":
            raise ValueError(f"model.path: {name} does not allow {MEANS[way]}: {reason}; {CURES[way]}")
    if (fault := check.closed.get("shared")) and not obstacle(model):
        note = f"shared_prefix is off for {name}: {fault}"
        model = replace(model, prefix_fault=fault, notes=(*model.notes, note))
    return model, check


def model_check(model: LanguageModel, ways: Collection[Way]) -> ModelCheck:
    """Try some ways of reading a model."""
    gaps: dict[Way, float] = {}
    closed: dict[Way, str] = {}
    with undisturbed(), evaluating(model.network):
        probe = _probe(model)
        for way in ways:
            try:
                gap = max(_tried(way, view, probe) for view in _views(model))
            except torch.OutOfMemoryError:
                raise
            except _Closed as reason:
                closed[way] = str(reason)
            except FAILURES as error:
                closed[way] = f"{type(error).__name__}, {error}".strip().splitlines()[0]
            else:
                gaps[way] = gap
    return ModelCheck(gaps=gaps, closed=closed)


def try_passes(model: LanguageModel, needs: Collection[ModelNeed]) -> None:
    """A forward and a backward pass of a few tokens, and each way that a run needs, whatever they give.

    Raises:
        RuntimeError: where a strict torch has no deterministic form of an operation; other errors are for
            `checked`.
    """
    with undisturbed(), evaluating(model.network):
        probe = _probe(model)
        trained = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
        tries: list[Callable[[], object]] = [
            lambda: torch.autograd.grad(_read(model, probe).sum(), trained, allow_unused=True),
            *(partial(TRIALS[need], model, probe) for need in needs),
        ]
        for tried in tries:
            try:
                tried()
            except torch.OutOfMemoryError:
                raise
            except (*FAILURES, _Closed) as error:
                if lacks_determinism(error):
                    raise


class _Closed(Exception):
    """A way that gives other numbers than the network alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probe:
    # Two prompts of unlike length, two completions of unlike length each.
    completions: Sequence[Completion]
    batch: RolloutBatch
    prompts: Sequence[Sequence[int]]


def _probe(model: LanguageModel) -> _Probe:
    ordinary = ordinary_ids(model)
    picks = torch.randint(len(ordinary), (64,), generator=torch.Generator().manual_seed(0))
    ids = iter([ordinary[pick] for pick in integers(picks)])
    prompts = [[next(ids) for _ in range(length)] for length in (3, 6)]
    completions = [
        Completion(
            uid="",
            group=group,
            prompt_ids=prompts[group],
            ids=[next(ids) for _ in range(length)],
            logprobs=[0.0] * length,
            text="",
            truncated=False,
        )
        for group, length in ((0, 5), (0, 2), (1, 4), (1, 7))
    ]
    batch = collate(completions, [0.0] * len(completions), pad_id=model.pad_id, mask_truncated=False)
    return _Probe(completions=completions, batch=batch.to(model.device), prompts=prompts)


def _views(model: LanguageModel) -> Iterator[LanguageModel]:
    # In float32, where errors show that half precision would drown; and as the run will read it.
    wide = all(p.dtype == torch.float32 for p in model.network.parameters())
    if not model.exact and wide and takes_a_mask(model):
        yield replace(model, dtype=torch.float32, head_precision="float32")
    yield model


def _tried(way: Way, model: LanguageModel, probe: _Probe) -> float:
    # How far a way is from the network alone, in one view.
    if way == "shared" and (reason := obstacle(model)):
        raise _Closed(reason)
    ours, theirs = TRIALS[way](model, probe)
    difference = (ours.double() - theirs.double()).abs()
    half = not model.exact
    gap = float(difference.mean() if half else difference.max()) if len(difference) else 0.0
    if not gap <= (NEAR if half else CLOSE):
        raise _Closed(f"other numbers than the network alone (gap {gap:.2g})")
    return gap


def _plain(model: LanguageModel, probe: _Probe) -> Tensor:
    return torch.cat([plain_logprobs(model, c.prompt_ids, c.ids, 1.0) for c in probe.completions])


def _read(model: LanguageModel, probe: _Probe, rows_per_forward: Sequence[int] = ()) -> Tensor:
    return read_completions(
        model, probe.batch, temperature=1.0, logit_chunk=LOGIT_CHUNK, rows_per_forward=rows_per_forward
    )[0].logprobs


@torch.no_grad()
def _padded(model: LanguageModel, probe: _Probe) -> tuple[Tensor, Tensor]:
    return _read(model, probe), _plain(model, probe)


@torch.no_grad()
def _train(model: LanguageModel, probe: _Probe) -> tuple[Tensor, Tensor]:
    theirs = _read(model, probe)
    with training(model.network):
        return _read(model, probe), theirs


def _shared(model: LanguageModel, probe: _Probe) -> tuple[Tensor, Tensor]:
    factors = torch.linspace(-1, 1, int(probe.batch.present.sum()), device=model.device)
    parameters: list[Tensor] = []
    inputs = model.causal_lm.get_input_embeddings().weight
    for parameter in model.network.parameters():
        if parameter.requires_grad and parameter is not inputs:
            parameters.append(parameter)
        if sum(chosen.numel() for chosen in parameters) > COMPARED:
            break

    def gradient(read: Callable[[], Tensor]) -> Tensor:
        with torch.enable_grad():
            parts = torch.autograd.grad((read() * factors).sum(), parameters, allow_unused=True)
        present = [part for part in cast("tuple[Tensor | None, ...]", parts) if part is not None]
        return torch.cat([part.flatten().float() for part in present])

    theirs = gradient(lambda: _plain(model, probe))
    ours = gradient(lambda: _read(model, probe, (2, 2)))
    # As one number: the share of the gradient that differs.
    share = (ours - theirs).square().sum().sqrt() / theirs.square().sum().sqrt()
    return share[None], torch.zeros_like(share)[None]


def _sample(model: LanguageModel, probe: _Probe) -> tuple[Tensor, Tensor]:
    model = replace(model, eos_ids=frozenset(range(0, vocabulary(model), ENDS)))
    request = RolloutRequest(
        prompts=[Prompt(uid="", question="", gold="", demonstration="") for _ in probe.prompts],
        prompt_ids=probe.prompts,
        group_size=3,
        max_new_tokens=TRIED_TOKENS,
        temperature=FLAT,
        seed=0,
    )
    completions = TRIED.generate(model, request)
    ours = torch.tensor([logprob for completion in completions for logprob in completion.logprobs])
    with torch.no_grad():
        theirs = [plain_logprobs(model, c.prompt_ids, c.ids, FLAT) for c in completions]
    # Flat, so that rows end at unlike lengths; a gap in logits is as many times smaller.
    return ours * FLAT, torch.cat(theirs).cpu() * FLAT


def _cut(masking: Masking, model: LanguageModel, probe: _Probe) -> tuple[Tensor, Tensor]:
    if reason := cut_obstacle(model):
        raise _Closed(f"it {reason}")
    cuts = [Cut(row=3, start=1, end=3, first=4, last=7), Cut(row=0, start=0, end=2, first=2, last=5)]
    _, after = read_cuts(model, probe.batch, cuts, masking=masking, temperature=1.0, logit_chunk=LOGIT_CHUNK)
    theirs = [
        plain_cut(model, c.prompt_ids, c.ids, cut, masking=masking, temperature=1.0)
        for cut in cuts
        for c in [probe.completions[cut.row]]
    ]
    return torch.cat([after[n, cut.first : cut.last] for n, cut in enumerate(cuts)]), torch.cat(theirs)


def _gradient(model: LanguageModel, probe: _Probe) -> tuple[Tensor, Tensor]:
    firsts = [max(len(c.ids) - 2, 0) for c in probe.completions]
    ours = gradient_times_embedding(model, probe.batch, firsts, temperature=1.0, logit_chunk=LOGIT_CHUNK)
    pairs = zip(probe.completions, firsts, strict=True)
    theirs = torch.cat([plain_gradient(model, c.prompt_ids, c.ids, first, 1.0) for c, first in pairs])
    if theirs.max() < VANISHED:
        raise _Closed("it is zero, as where embeddings are normalised first")
    return ours[probe.batch.present] / theirs.max(), theirs / theirs.max()


def _attention(model: LanguageModel, probe: _Probe) -> tuple[Tensor, Tensor]:
    firsts = [max(len(c.ids) - 2, 0) for c in probe.completions]
    ours = attention_received(model, probe.batch, firsts)
    pairs = zip(probe.completions, firsts, strict=True)
    theirs = [plain_attention(model, c.prompt_ids, c.ids, first) for c, first in pairs]
    return ours[probe.batch.present], torch.cat(theirs)


@torch.no_grad()
def _merge(model: LanguageModel, probe: _Probe) -> tuple[Tensor, Tensor]:
    network, causal_lm = model.network, plain(model)
    adapters = [
        parameter
        for name, parameter in network.named_parameters()
        if name.endswith(f"lora_B.{ADAPTER}.weight")
    ]
    before = [parameter.detach().clone() for parameter in adapters]
    draw = torch.Generator().manual_seed(0)
    try:
        # A fresh adapter is the identity, with which anything would agree.
        for parameter in adapters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw).to(parameter.device))
        own = {key.replace(".base_layer", ""): tensor.dtype for key, tensor in weights(causal_lm).items()}
        # As they come, since in float32 they would be as large again.
        given = {name: tensor.to(own.get(name, tensor.dtype)) for name, tensor in merged(model)}
        if strange := sorted(given.keys() ^ _names(causal_lm)):
            raise _Closed(f"names that are missing or too many: {', '.join(strange[:3])}")
        ids = torch.tensor([[*probe.prompts[1], *probe.completions[3].ids]], device=model.device)
        with model.computing():
            live = network(input_ids=ids, use_cache=False).logits
        replaced = {
            key: given[name]
            for key in weights(causal_lm)
            if (name := key.replace(".base_layer", "")) in given and ".lora_" not in key
        }
        off = model.without_adapter() if adapters else model
        with replace(off, start_adapter=None).computing():
            call = torch.func.functional_call(
                causal_lm, replaced, kwargs={"input_ids": ids, "use_cache": False}
            )
        theirs = cast(Tensor, call.logits)
    finally:
        for parameter, values in zip(adapters, before, strict=True):
            parameter.copy_(values)
    return live.float().log_softmax(-1).flatten(), theirs.float().log_softmax(-1).flatten()


def _names(causal_lm: torch.nn.Module) -> set[str]:
    # Of an architecture's weights, a tied one under its first name, from a network without adapters.
    with torch.device("meta"):
        skeleton = type(causal_lm)(causal_lm.config)
    first: dict[int, str] = {}
    for name, tensor in weights(skeleton).items():
        first.setdefault(id(tensor), name)
    return set(first.values())


TRIALS: Mapping[Way, Callable[[LanguageModel, _Probe], tuple[Tensor, Tensor]]] = {
    "padded": _padded,
    "train": _train,
    "shared": _shared,
    "sample": _sample,
    "merge": _merge,
    "pad": partial(_cut, "pad"),
    "block": partial(_cut, "block"),
    "delete": partial(_cut, "delete"),
    "direct": partial(_cut, "direct"),
    "gradient": _gradient,
    "attention": _attention,
}
