"""Building a language model: from a hub name or a folder, or from nothing."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mirrorpo.core.network import Tokenizer
from mirrorpo.core.protocols import Assembly
from mirrorpo.core.seeds import derive
from mirrorpo.distributed.fsdp import Unsharded
from mirrorpo.model.language_model import LanguageModel, recomputes
from mirrorpo.model.lora import Lora, adapter_base, merged
from mirrorpo.model.prefix import prefix_requirements
from mirrorpo.model.prompt import ChatPrompt, PlainPrompt
from mirrorpo.model.words import word_tokenizer

SHIPPED = "mirrorpo:"
Dtype = Literal["auto", "float32", "bfloat16"]


@runtime_checkable
class ModelSpec(Protocol):
    """What a `conf/model/<name>.yaml` builds."""

    @property
    def prompt(self) -> ChatPrompt | PlainPrompt: ...

    def load(self, device: torch.device, seed: int, corpus: Callable[[], Iterable[str]]) -> LanguageModel: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A causal LM from the Hugging Face hub or a local folder. Code from the hub is never run.

    Attributes:
        path: hub name, folder, or `mirrorpo:tiny` for the model that ships with the package.
        revision: commit or tag on the hub; None is the newest.
        dtype: of the computation; auto is bfloat16 on CUDA and float32 elsewhere.
        attention: attention implementation of `transformers`.
        lora: adapters, or None to train everything.
        gradient_checkpointing: recompute activations in the backward pass.
        prompt: how a question becomes tokens.
    """

    path: str
    revision: str | None
    dtype: Dtype
    attention: str
    lora: Lora | None
    gradient_checkpointing: bool
    prompt: ChatPrompt | PlainPrompt

    def load(self, device: torch.device, seed: int, corpus: Callable[[], Iterable[str]]) -> LanguageModel:
        """The model and its tokenizer, ready to train.

        Raises:
            ValueError: if the files cannot be found, saying what to set.
        """
        dtype = compute_dtype(self.dtype, device)
        # Trained parameters stay in float32: updates of a learning rate's size vanish in bfloat16.
        network, tokenizer = self._read(torch.float32 if self.lora is None else dtype)
        model = finish(
            network, tokenizer, dtype=dtype, device=device, checkpointing=self.gradient_checkpointing
        )
        return model if self.lora is None else with_adapter(model, self.lora, seed)

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Sharing a prompt among completions has to fit the attention and the recomputation."""
        return prefix_requirements(assembly.config)

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Dropout makes the policy that is updated another one than that which sampled."""
        if self.lora is not None and self.lora.dropout:
            yield (
                f"{group}.lora.dropout > 0: the policy that is updated drops activations, the one that "
                "sampled did not; the sampler and the trainer then differ, which kl/sampler shows"
            )

    def _read(self, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        # What the files hold, complete.
        path = self.path
        if path.startswith(SHIPPED):
            path = str(files("mirrorpo.model") / path.removeprefix(SHIPPED))
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, revision=self.revision, trust_remote_code=False)
            base = adapter_base(path) or path
            loaded = AutoModelForCausalLM.from_pretrained(
                base,
                revision=self.revision,
                dtype=dtype,
                attn_implementation=self.attention,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (ImportError, OSError, ValueError, SafetensorError) as error:
            raise self._unloadable(error) from error
        # A pair when it is asked for its loading information, which its type does not say.
        network, information = cast(tuple[PreTrainedModel, Mapping[str, Iterable[str]]], loaded)
        digits = "0123456789"
        if tokenizer.decode(tokenizer(digits, add_special_tokens=False).input_ids).replace(" ", "") != digits:
            # Where there are no files, transformers makes a tokenizer of a few special tokens.
            raise ValueError(f"model.path={self.path}: there is no tokenizer. {self._fix()}")
        if information["missing_keys"]:
            # transformers would draw them at random and train on.
            raise ValueError(
                f"model.path={self.path}: the weights lack {sorted(information['missing_keys'])[:5]}; "
                "the files are incomplete or of another architecture"
            )
        return network if base == path else merged(network, path), tokenizer

    def _unloadable(self, error: Exception) -> ValueError:
        reason = str(error).splitlines()[0]
        about_attention = (
            "attn_implementation" in str(error) or "attention implementation" in str(error).lower()
        )
        if isinstance(error, ImportError) or about_attention:
            return ValueError(f"model.attention={self.attention}: {reason}")
        return ValueError(f"model.path={self.path}: cannot be loaded ({reason}). {self._fix()}")

    def _fix(self) -> str:
        return (
            "Set model.path to a folder with config.json, the tokenizer and safetensors; or fill the hub "
            f"cache once where there is a network (`hf download {self.path}`), and point HF_HOME to it"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scratch:
    """A randomly initialised model with a word-level tokenizer made from the dataset.

    Attributes:
        architecture: arguments of the `transformers` configuration, `model_type` included.
        prompt: how a question becomes tokens.
    """

    architecture: Mapping[str, object]
    prompt: ChatPrompt | PlainPrompt

    def load(self, device: torch.device, seed: int, corpus: Callable[[], Iterable[str]]) -> LanguageModel:
        """The model, initialised from the run's `init` stream."""
        tokenizer = word_tokenizer(corpus())
        settings = {key: value for key, value in self.architecture.items() if key != "model_type"}
        special = {
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        }
        config = AutoConfig.for_model(str(self.architecture["model_type"]), **settings, **special)
        with init_draws(seed):
            network = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation="sdpa"
            )
        return finish(network, tokenizer, dtype=torch.float32, device=device, checkpointing=False)


def compute_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """The dtype a setting stands for on a device."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.float32 if name == "float32" else torch.bfloat16


@contextmanager
def init_draws(seed: int) -> Iterator[None]:
    """The global generators on the run's `init` stream, put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init"))
        yield


def finish(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype,
    device: torch.device,
    checkpointing: bool,
) -> LanguageModel:
    """Special ids, device and checks for a fresh network.

    Args:
        network: of `transformers`, on any device.
        tokenizer: its tokenizer.
        dtype: of the computation.
        device: where it will run.
        checkpointing: recompute activations in the backward pass.

    Raises:
        ValueError: if no token ends a completion, or if `Head` does not give the network's own logits.
    """
    # What its type says allows for several texts, and for ids by other names.
    one_text = cast("Tokenizer", tokenizer)
    generation, config = network.generation_config, network.config
    ends = {
        index
        for named in (generation.eos_token_id, config.eos_token_id, tokenizer.eos_token_id)
        # A model may name none, one or several.
        for index in (named if isinstance(named, list | tuple) else [named])
        if isinstance(index, int)
    }
    if not ends:
        raise ValueError(
            "model.path: neither the model nor its tokenizer names an end-of-sequence token; completions "
            "could never end"
        )
    pad = min(ends) if one_text.pad_token_id is None else one_text.pad_token_id
    if checkpointing:
        # The older name is that of transformers below 5.20.
        enable = getattr(network, "activation_checkpointing_enable", None)
        (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    model = LanguageModel(
        network=network, tokenizer=one_text, eos_ids=frozenset(ends), pad_id=pad, dtype=dtype, device=device
    )
    model.network.to(device)
    model.check_head()
    return model


def with_adapter(model: LanguageModel, lora: Lora, seed: int) -> LanguageModel:
    """The model with a fresh adapter, which starts as the identity; only the adapter trains."""
    from peft import LoraConfig, get_peft_model

    outer = (model.causal_lm.get_output_embeddings(), model.causal_lm.get_input_embeddings())
    modules = model.network.named_modules()
    names = {name.rpartition(".")[2] for name, module in modules if any(module is part for part in outer)}
    if names & set(lora.targets):
        raise ValueError(
            f"model.lora.targets={list(lora.targets)}: adapting the head or the embeddings would change the "
            f"reference too; leave them out"
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    # The adapter's draw comes from its own stream, so that full and LoRA arms share all the others.
    with init_draws(seed), warnings.catch_warnings():
        # peft 0.21 reads transformers' old name of the property.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        network = get_peft_model(model.network, config)
    base = cast(PreTrainedModel, network.get_base_model())
    if recomputes(base):
        base.enable_input_require_grads()
    for _, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return replace(model, network=network)


def reference(model: LanguageModel) -> LanguageModel:
    """The frozen start model: the adapter switched off, or a copy.

    The copy keeps the policy's own precision, so that every divergence starts at exactly zero.
    """
    if hasattr(model.network, "disable_adapter"):
        return model.without_adapter()
    network = copy.deepcopy(model.network).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return replace(model, network=network, shards=Unsharded())
