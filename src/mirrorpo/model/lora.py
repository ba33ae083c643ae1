"""What an adapter is made with; `conf/lora`."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Low-rank adapters (peft); the base stays frozen and, with the adapter off, is the reference.

    Attributes:
        rank: of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: on the adapter's input, in training mode only.
        targets: names of the adapted projections; never the output head.
    """

    rank: int
    alpha: int
    dropout: float
    targets: Sequence[str]


def adapter_base(folder: str | Path) -> str | None:
    """The model that a folder's adapter was made for, as its run named it; None where it holds no adapter."""
    path = Path(folder) / "adapter_config.json"
    return str(json.loads(path.read_text())["base_model_name_or_path"]) if path.is_file() else None


def merged(network: "PreTrainedModel", folder: str) -> "PreTrainedModel":
    """A base model with a folder's adapter added to its weights, as one plain model."""
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft 0.21 reads transformers' old name of the property.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = PeftModel.from_pretrained(network, folder)
    # peft freezes the base; as a start model it trains like any other.
    return adapted.merge_and_unload().requires_grad_(True)
