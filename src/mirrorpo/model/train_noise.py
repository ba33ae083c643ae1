"""Dropout and router jitter: what a network adds in train mode, and sampling does not have."""

import re
from collections.abc import Iterator, MutableMapping

import torch
from transformers import PreTrainedModel

# attention_dropout, resid_pdrop, layerdrop, router_jitter_noise; not those of heads that no causal LM has.
NOISE = re.compile(r"(?!summary_|classifier_).*(dropout|pdrop|drop_path|layerdrop|jitter)")


def silence(network: PreTrainedModel) -> dict[str, float]:
    """Set dropout and jitter of a `transformers` model to zero, in its config and in its modules.

    Returns:
        What was not zero in the config, by name.
    """
    config = network.config
    silenced: dict[str, float] = {}
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        silenced |= _zeroed(vars(part))
    for module in network.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _zeroed(vars(module))
    return silenced


def _zeroed(settings: MutableMapping[str, object]) -> dict[str, float]:
    noisy = dict(_noise(settings))
    settings.update(dict.fromkeys(noisy, 0.0))
    return noisy


def _noise(settings: MutableMapping[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in settings.items():
        if isinstance(value, float) and value > 0 and NOISE.match(name):
            yield name, value
