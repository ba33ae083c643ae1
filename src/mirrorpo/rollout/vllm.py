"""vLLM in the trainer's process and on its device, given the policy's weights whenever they have changed."""

import copy
import importlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch

from mirrorpo.core.batch import Completion, RolloutRequest
from mirrorpo.core.protocols import (
    Assembly,
    EngineMemory,
    GenerativeModel,
    ModelNeed,
    SamplingSizes,
)
from mirrorpo.core.seeds import global_state, restore_global_state
from mirrorpo.rollout.nucleus import cut_distribution_notes
from mirrorpo.rollout.request import ABSENT, group_completions, sampling_settings
from mirrorpo.rollout.weights import fingerprint, merged, network_config, plain

# Bytes that a sleeping engine keeps: CUDA graphs and buffers.
ASLEEP = 2 * 2**30


@runtime_checkable
class TokenLogprob(Protocol):
    """What vLLM says of a token at a place."""

    @property
    def logprob(self) -> float: ...


@runtime_checkable
class SampledCompletion(Protocol):
    """What is read of vLLM's `CompletionOutput`."""

    @property
    def token_ids(self) -> Sequence[int]: ...

    @property
    def logprobs(self) -> Sequence[Mapping[int, TokenLogprob]]: ...


@runtime_checkable
class SampledGroup(Protocol):
    """What is read of vLLM's `RequestOutput`."""

    @property
    def outputs(self) -> Sequence[SampledCompletion]: ...


@runtime_checkable
class Engine(Protocol):
    """What is used of vLLM's `LLM`."""

    def generate(
        self, prompts: Sequence[Mapping[str, list[int]]], sampling_params: Sequence[object], *, use_tqdm: bool
    ) -> Sequence[SampledGroup]: ...

    def collective_rpc(self, method: str, *, kwargs: Mapping[str, object]) -> object: ...

    def apply_model(self, func: Callable[[torch.nn.Module], None]) -> object: ...

    def reset_prefix_cache(self) -> object: ...

    def sleep(self, level: int) -> object: ...

    def wake_up(self) -> object: ...


@dataclass(slots=True)
class Running:
    """A started engine, and the fingerprint of the weights that it holds."""

    llm: Engine
    weights: tuple[int, ...] | None


# An engine takes its memory for as long as the process lives, so there is one for all that can share it.
_STARTED: dict[tuple["Colocated", str, str], Running] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Colocated:
    """A vLLM engine beside the policy; engines of equal settings are one, so training and evaluation share
    it.

    A completion depends on the weights, its prompt, the seed and its place in the call, up to vLLM's
    rounding, which depends on what is sampled beside it. `logprobs` are of the distribution that was
    sampled from (vLLM's processed_logprobs).

    Attributes:
        top_p: nucleus sampling; below 1 the sampler is not the policy that is trained.
        dtype: of vLLM's computation; auto is bfloat16 on CUDA and float32 elsewhere.
        memory: share of the device's memory that vLLM may take for its weights and its cache.
        max_model_len: longest prompt and completion together; None is all the positions of the model.
        enforce_eager: without CUDA graphs and compilation; a slower token, a quicker start.
        sleep: give the device's memory back between rollouts; the weights wait on the CPU. CUDA and ROCm
            only.
    """

    samples: ClassVar[bool] = True
    serves_remotely: ClassVar[bool] = False

    top_p: float
    dtype: Literal["auto", "float32", "bfloat16"]
    memory: float
    max_model_len: int | None
    enforce_eager: bool
    sleep: bool

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1 or not 0 < self.memory < 1:
            raise ValueError(
                f"rollout.top_p={self.top_p}, rollout.memory={self.memory}: give shares in (0, 1], and of "
                f"memory below 1"
            )

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """vLLM takes the first device that its process sees, and has no sleep mode on a CPU."""
        device = str(assembly.config["device"])
        index = device.partition(":")[2]
        if index not in ("", "0"):
            yield (
                f"device={device} with {group}=vllm: the engine in this process takes the first device it "
                f"sees; set device=cuda and CUDA_VISIBLE_DEVICES={index}"
            )
        if self.sleep and device == "cpu":
            yield (f"{group}.sleep=true with device=cpu: vLLM cannot sleep on a CPU; set {group}.sleep=false")

    def model_needs(self) -> Collection[ModelNeed]:
        """Weights under their own names, adapters merged."""
        return ("merge",)

    def device_memory(self, sizes: SamplingSizes) -> EngineMemory:
        """Its share of the device; asleep, what it does not give back."""
        share = round(self.memory * sizes.card)
        asleep = EngineMemory(sampling=share, between=min(ASLEEP, share))
        if self.sleep:
            return asleep
        return EngineMemory(sampling=share, between=share, under={"sleep=true": asleep})

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """A cut distribution is not the policy that is trained."""
        return cut_distribution_notes(group, self.top_p)

    def generate(self, model: GenerativeModel, request: RolloutRequest) -> Sequence[Completion]:
        """`group_size` completions for each prompt, in order.

        Raises:
            ValueError: if vLLM is not installed, is built for another device, or has too short a context.
        """
        groups = request.groups
        if not groups and not torch.distributed.is_initialized():
            return []
        vllm = _library(model.device.type)
        with _undisturbed():
            # Of several processes each starts an engine for itself, and all at once, since vLLM makes groups
            # of them.
            running = self._running(model)
            if not groups:
                return []
            if self.sleep and running.weights is not None:
                # What the trainer's allocator has kept of the update is not vLLM's to take.
                if model.device.type == "cuda":
                    torch.cuda.empty_cache()
                running.llm.wake_up()
            self._load_weights(running, model)
            answers = running.llm.generate(
                [{"prompt_token_ids": list(request.prompt_ids[group])} for group in groups],
                [
                    vllm.SamplingParams(
                        **sampling_settings(request, model, group, self.top_p), detokenize=False
                    )
                    for group in groups
                ],
                use_tqdm=False,
            )
            if self.sleep:
                running.llm.sleep(level=1)
        completions: list[Completion] = []
        for group, answer in zip(groups, answers, strict=True):
            drawn = [
                (
                    output.token_ids,
                    [
                        step[token].logprob
                        for token, step in zip(output.token_ids, output.logprobs, strict=True)
                    ],
                )
                for output in answer.outputs
            ]
            completions += group_completions(request, model, group, drawn)
        return completions

    def _running(self, model: GenerativeModel) -> Running:
        key = (replace(self, top_p=1.0), network_config(model).to_json_string(), model.device.type)
        if key not in _STARTED:
            _STARTED[key] = Running(llm=_start(self, model), weights=None)
        return _STARTED[key]

    def _load_weights(self, running: Running, model: GenerativeModel) -> None:
        current = fingerprint(model)
        if current != running.weights:
            running.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged(model)})
            if model.device.type == "cpu":
                running.llm.apply_model(_pack_head)
            # Keys and values of the prompts are the old weights'.
            running.llm.reset_prefix_cache()
            running.weights = current


def _library(device: str) -> ModuleType:
    # The engine has to live in this process to be handed tensors.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # On a CPU vLLM would pin the process, and with it the trainer, to cores of its choice.
    for name, value in {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)
    try:
        vllm = importlib.import_module("vllm")
    except ImportError as error:
        raise ValueError(f"rollout=vllm: vLLM {ABSENT} ({error})") from error
    built_for = importlib.import_module("vllm.platforms").current_platform.device_type
    if built_for != device:
        raise ValueError(
            f"device={device} with rollout=vllm: this vLLM is built for "
            f"{built_for or 'no device that is here'}; set device={built_for}"
        )
    return vllm


def _start(settings: Colocated, model: GenerativeModel) -> Engine:
    dtype = (
        ("bfloat16" if model.device.type == "cuda" else "float32")
        if settings.dtype == "auto"
        else settings.dtype
    )
    with tempfile.TemporaryDirectory() as folder:
        # The config of a network that was never saved does not name its class.
        config = copy.deepcopy(network_config(model))
        config.architectures = [type(plain(model)).__name__]
        config.save_pretrained(folder)
        return importlib.import_module("vllm").LLM(
            folder,
            runner="generate",
            skip_tokenizer_init=True,
            load_format="dummy",
            generation_config="vllm",
            logprobs_mode="processed_logprobs",
            dtype=dtype,
            # Logits of half precision would be 0.01 nats and more from the trainer's.
            hf_overrides={"head_dtype": "float32"},
            gpu_memory_utilization=settings.memory,
            max_model_len=settings.max_model_len,
            enforce_eager=settings.enforce_eager,
            enable_sleep_mode=settings.sleep,
            # Where there is a group already, vLLM would make this process all of it.
            distributed_executor_backend="external_launcher" if torch.distributed.is_initialized() else None,
            # Of a prompt read in pieces, vLLM 0.32 turns the seeded generator back, which it cannot on a CPU.
            enable_chunked_prefill=False if model.device.type == "cpu" else None,
        )


def _pack_head(network: torch.nn.Module) -> None:
    # vLLM's CPU build computes the head from a packed copy, and does not pack one again that is tied to
    # reloaded embeddings.
    head = getattr(network, "lm_head", None)
    if head is not None:
        head.quant_method.process_weights_after_loading(head)


@contextmanager
def _undisturbed() -> Iterator[None]:
    # vLLM seeds the global generators and, on a CPU, takes torch.set_num_threads away.
    state, threads, set_threads, dtype = (
        global_state(),
        torch.get_num_threads(),
        torch.set_num_threads,
        torch.get_default_dtype(),
    )
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        restore_global_state(state)
