"""A loaded model whose decoder layers run compiled, or the line that says why they cannot."""

from dataclasses import replace

import torch

from mirrorpo.core.seeds import undisturbed
from mirrorpo.model.compiled import decoder_layers, set_up
from mirrorpo.model.language_model import FAILURES, LanguageModel
from mirrorpo.model.modes import evaluating

# Two rows of unlike length, so that there is a mask.
LENGTHS = (6, 8)


def with_compiled_layers(model: LanguageModel) -> LanguageModel:
    """The model with compiled decoder layers, tried on a few tokens with their gradient.

    Raises:
        ValueError: naming the layer and the reason, if they cannot be compiled.
    """
    layers = decoder_layers(model.causal_lm)
    if not layers:
        raise _refused(model, "its decoder has no layers that transformers marks as such")
    set_up()
    compiled = replace(model, compiled=True)
    try:
        _try(compiled)
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        inner = getattr(error, "inner_exception", error)
        # Of a compiler that fails: its command, and below this word what it said.
        text = str(inner).rpartition("Output:\n")[2]
        lines = [line.strip() for line in f"{type(inner).__name__}: {text}".splitlines() if line.strip()]
        raise _refused(model, "; ".join(lines[:2])) from error
    return compiled


def _refused(model: LanguageModel, reason: str) -> ValueError:
    kinds = sorted({type(layer).__name__ for layer in decoder_layers(model.causal_lm)})
    name = ", ".join(kinds) or type(model.causal_lm).__name__
    return ValueError(f"compile=layers: {name} cannot be compiled ({reason}); set compile=none")


def _try(model: LanguageModel) -> None:
    present = (
        torch.arange(max(LENGTHS), device=model.device) < torch.tensor(LENGTHS, device=model.device)[:, None]
    )
    ids = torch.ones(present.shape, dtype=torch.long, device=model.device)
    positions = (present.cumsum(dim=1) - 1).clamp(min=0)
    trained = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    with undisturbed(), evaluating(model.network), torch.enable_grad():
        # As in an update.
        model.network.train()
        hidden = model.hidden(ids, present, positions)
        torch.autograd.grad(hidden.float().sum(), trained, allow_unused=True)
