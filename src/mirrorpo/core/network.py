"""What is used of the networks and tokenizers of `transformers`, whose own types say less."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@runtime_checkable
class Encoding(Protocol):
    """A text as ids."""

    @property
    def input_ids(self) -> list[int]: ...


@runtime_checkable
class AddedToken(Protocol):
    """A token beside the vocabulary's own; special ones stand for no text."""

    @property
    def special(self) -> bool: ...


@runtime_checkable
class Tokenizer(Protocol):
    """A tokenizer, given one text at a time."""

    @property
    def eos_token_id(self) -> int | None: ...

    @property
    def pad_token_id(self) -> int | None: ...

    @property
    def unk_token_id(self) -> int | None: ...

    @property
    def chat_template(self) -> str | dict[str, str] | None: ...

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]: ...

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Encoding: ...

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str: ...

    def convert_ids_to_tokens(self, ids: int) -> str | None: ...

    def get_chat_template(self) -> str: ...

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **variables: object,
    ) -> str: ...

    def save_pretrained(self, save_directory: Path) -> object: ...


@runtime_checkable
class CausalLM(Protocol):
    """A decoder and its head."""

    @property
    def config(self) -> "PreTrainedConfig": ...

    def get_decoder(self) -> torch.nn.Module: ...

    def get_input_embeddings(self) -> torch.nn.Module: ...

    def get_output_embeddings(self) -> torch.nn.Linear: ...

    def set_attn_implementation(self, attn_implementation: str | None) -> None: ...


@runtime_checkable
class AdapterConfig(Protocol):
    """What an adapter was made with; of which the base it belongs to."""

    base_model_name_or_path: str | None


@runtime_checkable
class LoadedKeys(Protocol):
    """Names that were looked for and not found in a file, and the other way round."""

    @property
    def missing_keys(self) -> list[str]: ...

    @property
    def unexpected_keys(self) -> list[str]: ...


@runtime_checkable
class Adapted(Protocol):
    """A network with an adapter around it, as `peft` makes one."""

    def get_base_model(self) -> torch.nn.Module: ...

    @property
    def peft_config(self) -> dict[str, "AdapterConfig"]: ...

    def disable_adapter(self) -> AbstractContextManager[object]: ...

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None: ...

    def add_adapter(self, adapter_name: str, peft_config: "AdapterConfig") -> None: ...

    def load_adapter(
        self, model_id: str, adapter_name: str, is_trainable: bool, *, torch_device: str, revision: str | None
    ) -> LoadedKeys: ...


@runtime_checkable
class Saveable(Protocol):
    """A network that can be written into a folder."""

    def save_pretrained(
        self, save_directory: Path, *, state_dict: dict[str, Tensor], **settings: object
    ) -> object: ...


def plain_name(name: str) -> str:
    """A module's or weight's name as it is without the adapter that `peft` puts around it.

    Example:
        >>> plain_name("model.layers.0.mlp.up_proj.base_layer.weight")
        'model.layers.0.mlp.up_proj.weight'
    """
    return name.replace(".base_layer", "")
