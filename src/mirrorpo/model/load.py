"""Building a language model: from a hub name or a folder, or from nothing."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
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

from mirrorpo.core.network import CausalLM, Tokenizer
from mirrorpo.core.protocols import Assembly
from mirrorpo.core.seeds import init_draws
from mirrorpo.distributed.fsdp import Unsharded
from mirrorpo.model.adapter import (
    START,
    base_of,
    merged_adapter,
    name_base,
    with_adapter,
    with_saved_adapter,
    with_start_adapter,
)
from mirrorpo.model.language_model import LanguageModel, embedded
from mirrorpo.model.lora import Continue, Lora
from mirrorpo.model.prefix import prefix_requirements
from mirrorpo.model.prompt import ChatPrompt, PlainPrompt
from mirrorpo.model.sizes import ModelSizes, adapter_size, shape_of
from mirrorpo.model.stored import store_as_computed
from mirrorpo.model.train_noise import silence
from mirrorpo.model.words import word_tokenizer
from mirrorpo.run.model_run import policy_folder

SHIPPED = "mirrorpo:"
# owner/name, or a name alone; a path begins otherwise or is longer.
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
Dtype = Literal["auto", "float32", "bfloat16"]
TrainNoise = Literal["own"] | None


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
        lora: fresh adapters, or the folder's own that goes on, or None to train everything. An adapter in the
            folder is merged unless it goes on.
        gradient_checkpointing: recompute activations in the backward pass.
        prompt: how a question becomes tokens.
        train_noise: None sets the model's dropout and router jitter to zero; "own" leaves them, and the
            policy that is updated is then another than the one that sampled.
    """

    path: str
    revision: str | None
    dtype: Dtype
    attention: str
    lora: Lora | Continue | None
    gradient_checkpointing: bool
    prompt: ChatPrompt | PlainPrompt
    train_noise: TrainNoise = None

    def __post_init__(self) -> None:
        _refuse_other_noise(self.train_noise)

    def load(self, device: torch.device, seed: int, corpus: Callable[[], Iterable[str]]) -> LanguageModel:
        """The model and its tokenizer, ready to train.

        Raises:
            ValueError: if the files cannot be found, saying what to set.
        """
        dtype = compute_dtype(self.dtype, device)
        # Trained parameters stay in float32: updates of a learning rate's size vanish in bfloat16.
        network, tokenizer = self._read(torch.float32 if self.lora is None else dtype)
        model = finish(
            network,
            tokenizer,
            dtype=dtype,
            device=device,
            checkpointing=self.gradient_checkpointing,
            train_noise=self.train_noise,
        )
        if self.lora is None:
            return model
        if isinstance(self.lora, Continue):
            return with_saved_adapter(model, self._folder, self.revision, seed)
        model = with_adapter(model, self.lora, seed)
        # What a saved adapter names as its base: not where it lies on this machine, if it ships with us.
        base = Path(self.path).resolve() if Path(self.path).is_dir() else self.path
        name_base(model, str(base))
        return model

    def sizes(self, device: torch.device) -> ModelSizes:
        """What its memory depends on, by its config alone.

        Raises:
            OSError: if there are no files.
            ValueError: if they are of no model that is known.
        """
        path, revision = self._folder, self.revision
        while (base := base_of(path, revision)) is not None and base[0] != path:
            path, revision = _located(base[0]), base[1]
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config)
        rank, targets, dropout = _adapters(self.lora, self._folder, self.revision)
        return ModelSizes(
            shape=shape_of(network),
            rank=rank,
            adapters=adapter_size(network, rank, targets) if rank else 0,
            dropout=dropout,
            compute=compute_dtype(self.dtype, device).itemsize,
            checkpointing=self.gradient_checkpointing,
        )

    def requirements(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Sharing a prompt among completions has to fit the attention and the recomputation."""
        return prefix_requirements(assembly.config)

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """Dropout makes the policy that is updated another one than that which sampled."""
        if isinstance(self.lora, Lora) and self.lora.dropout:
            yield (
                f"{group}.lora.dropout > 0: the policy that is updated drops activations, the one that "
                "sampled did not; the sampler and the trainer then differ, which kl/sampler shows"
            )

    @property
    def _folder(self) -> str:
        return _located(self.path)

    def _read(self, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        # What the files hold, complete; an adapter is merged, or left to go on.
        try:
            base = base_of(self._folder, self.revision)
            if isinstance(self.lora, Continue) and base is None:
                raise ValueError(
                    f"model.lora=continue: model.path={self.path} holds no adapter; use "
                    "lora@model.lora=r16, or the policy/ of a run that trained one"
                )
            tokenizer = AutoTokenizer.from_pretrained(
                self._folder, revision=self.revision, trust_remote_code=False
            )
            if isinstance(self.lora, Continue) and base is not None:
                network = self._merged(_located(base[0]), base[1], dtype)
            else:
                network = self._merged(self._folder, self.revision, dtype)
        except (ImportError, OSError, ValueError, SafetensorError) as error:
            raise self._unloadable(error) from error
        digits = "0123456789"
        if tokenizer.decode(tokenizer(digits, add_special_tokens=False).input_ids).replace(" ", "") != digits:
            # Where there are no files, transformers makes a tokenizer of a few special tokens.
            raise ValueError(f"model.path={self.path}: there is no tokenizer. {self._fix()}")
        return network, tokenizer

    def _merged(self, path: str, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
        base = base_of(path, revision)
        if base is None or base[0] == path:
            return self._plain(path, revision, dtype)
        # In bfloat16 the sum would lose most of a small update.
        under = self._merged(_located(base[0]), base[1], torch.float32)
        network = merged_adapter(under, path, revision)
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
        return network

    def _plain(self, path: str, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
        loaded = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=dtype,
            attn_implementation=self.attention,
            trust_remote_code=False,
            output_loading_info=True,
        )
        # A pair when it is asked for its loading information, which its type does not say.
        network, information = cast(tuple[PreTrainedModel, Mapping[str, Iterable[str]]], loaded)
        if information["missing_keys"]:
            # transformers would draw them at random and train on.
            raise ValueError(
                f"model.path={path}: the weights lack {sorted(information['missing_keys'])[:5]}; "
                "the files are incomplete or of another architecture"
            )
        if information["unexpected_keys"]:
            # transformers would leave them out.
            strange = sorted(information["unexpected_keys"])[:5]
            raise ValueError(
                f"model.path={path}: {type(network).__name__} has no place for the weights {strange}; "
                "config.json is of another architecture"
            )
        return network

    def _unloadable(self, error: Exception) -> ValueError:
        reason = str(error).strip().splitlines()[0]
        if reason.startswith("model."):
            return ValueError(reason)
        if "attention" in reason.lower() or "attn_implementation" in str(error):
            return ValueError(f"model.attention={self.attention}: {reason}")
        if isinstance(error, ImportError):
            return ValueError(
                f"model.path={self.path}: its files need a package that is not installed ({reason}); "
                "quantised weights cannot be trained, give the unquantised model"
            )
        return ValueError(f"model.path={self.path}: cannot be loaded ({reason}). {self._fix()}")

    def _fix(self) -> str:
        files = "Set model.path to a folder with config.json, the tokenizer and safetensors"
        if Path(self._folder).is_dir():
            return files
        if not HUB_NAME.fullmatch(self.path):
            return f"There is no such folder. {files}"
        return (
            f"{files}; or fill the hub cache once where there is a network (`hf download {self.path}`), and "
            "point HF_HOME to it"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scratch:
    """A randomly initialised model with a word-level tokenizer made from the dataset.

    Attributes:
        architecture: arguments of the `transformers` configuration, `model_type` included.
        prompt: how a question becomes tokens.
        train_noise: as in `Pretrained`.
    """

    architecture: Mapping[str, object]
    prompt: ChatPrompt | PlainPrompt
    train_noise: TrainNoise = None

    def __post_init__(self) -> None:
        _refuse_other_noise(self.train_noise)

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
        return finish(
            network,
            tokenizer,
            dtype=torch.float32,
            device=device,
            checkpointing=False,
            train_noise=self.train_noise,
        )


def _refuse_other_noise(train_noise: object) -> None:
    if train_noise not in (None, "own"):
        raise ValueError(f"model.train_noise={train_noise}: choose null or own")


def _located(path: str) -> str:
    if path.startswith(SHIPPED):
        return str(files("mirrorpo.model") / path.removeprefix(SHIPPED))
    return str(policy_folder(Path(path))) if Path(path).is_dir() else path


def _adapters(
    lora: Lora | Continue | None, path: str, revision: str | None
) -> tuple[int, Sequence[str] | None, bool]:
    # Rank, targets and dropout of what a run trains.
    if isinstance(lora, Continue):
        from peft import LoraConfig, PeftConfig

        saved = PeftConfig.from_pretrained(path, revision=revision)
        if isinstance(saved, LoraConfig):
            # Its targets may be a pattern; all projections are an upper bound.
            return saved.r, None, bool(saved.lora_dropout)
        return 0, None, False
    return (lora.rank, lora.targets, bool(lora.dropout)) if lora else (0, None, False)


def compute_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """The dtype a setting stands for on a device."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.float32 if name == "float32" else torch.bfloat16


def finish(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype,
    device: torch.device,
    checkpointing: bool,
    train_noise: TrainNoise = None,
) -> LanguageModel:
    """Special ids, device and checks for a fresh network.

    Args:
        network: of `transformers`, on any device.
        tokenizer: its tokenizer.
        dtype: of the computation.
        device: where it will run.
        checkpointing: recompute activations in the backward pass.
        train_noise: None sets dropout and router jitter to zero, with a note.

    Raises:
        ValueError: if no token ends a completion, or if `Head` does not give the network's own logits.
    """
    ends, pad, notes = _special_ids(network, tokenizer)
    if train_noise is None and (silenced := silence(network)):
        named = ", ".join(f"{name}={value:g}" for name, value in sorted(silenced.items()))
        notes.append(
            f"model.path: {named} set to zero, since sampling has none of it; model.train_noise=own leaves it"
        )
    # What its type says allows for several texts, and for ids by other names.
    one_text = cast("Tokenizer", tokenizer)
    if checkpointing:
        # The older name is that of transformers below 5.20.
        enable = getattr(network, "activation_checkpointing_enable", None)
        (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    model = LanguageModel(
        network=network,
        tokenizer=one_text,
        eos_ids=frozenset(ends),
        pad_id=pad,
        dtype=dtype,
        device=device,
        notes=tuple(notes),
    )
    model.network.to(device)
    model.check_head()
    return model


def _special_ids(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[set[int], int, list[str]]:
    # What ends a completion, what fills up a row, and what there is to say of it.
    generation, config = network.generation_config, network.config
    ends = {
        index
        for named in (generation.eos_token_id, config.eos_token_id, tokenizer.eos_token_id)
        # A model may name none, one or several.
        for index in (named if isinstance(named, list | tuple) else [named])
        if isinstance(index, int)
    }
    count = embedded(cast("CausalLM", network))
    inside = {end for end in ends if 0 <= end < count}
    if not inside:
        raise ValueError(
            "model.path: neither the model nor its tokenizer names an end-of-sequence token"
            + (f" among the {count} that have an embedding (named: {sorted(ends)})" if ends else "")
            + "; completions could never end"
        )
    pad = cast("Tokenizer", tokenizer).pad_token_id
    if pad is None:
        return ends, min(inside), []
    if 0 <= pad < count:
        return ends, pad, []
    # Usual where a pad token was added to a tokenizer, and nothing to the model.
    note = (
        f"model.path: the tokenizer's pad token {pad} is outside the {count} embeddings; {min(inside)}, "
        "which ends a completion, pads instead"
    )
    return ends, min(inside), [note]


def reference(
    model: LanguageModel, *, moves: bool = False, seed: int = 0, adapter: str = START
) -> LanguageModel:
    """The frozen start model: the adapter switched off, or a copy.

    The copy computes what the policy does to the bit, so that every divergence starts at exactly zero.

    Args:
        model: the policy before its first update.
        moves: whether the reference will take weights of the policy: under an adapter it is a second one
            then, and a copy keeps all of its weights in the dtype of the policy's.
        seed: of the second adapter's draw, which its copy overwrites.
        adapter: what the second one is called.
    """
    if hasattr(model.network, "disable_adapter"):
        return (with_start_adapter(model, seed, adapter) if moves else model).without_adapter()
    network = copy.deepcopy(model.network).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    start = replace(model, network=network, shards=Unsharded())
    if not moves:
        store_as_computed(start)
    return start
