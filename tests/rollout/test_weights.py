"""Weights for another engine: names, merged adapters, and the number that tells whether they changed."""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from small_models import model as small
from small_models import model_of
from torch import Tensor

from mirrorpo.core.network import Adapted, Saveable
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Lora, reference, with_adapter
from mirrorpo.rollout.weights import AdapterLayer, fingerprint, merged, plain

# peft 0.21 asks for a property that transformers 5.24 renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def fresh(**settings: Any) -> LanguageModel:
    return model_of(copy.deepcopy(small("qwen3", **settings).network))


def adapted() -> LanguageModel:
    model = with_adapter(fresh(), Lora(rank=2, alpha=6, dropout=0.5, targets=["q_proj", "down_proj"]), 0)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3)
    return model


def logits(network: Any) -> Tensor:
    with torch.no_grad():
        return network.eval()(input_ids=torch.tensor([[5, 6, 7, 2]])).logits


def test_without_an_adapter_they_are_the_networks_own_tensors():
    model = fresh()
    found = dict(merged(model))
    assert found.keys() == model.network.state_dict().keys()
    assert all(
        tensor.data_ptr() == model.network.state_dict()[name].data_ptr() for name, tensor in found.items()
    )


def test_a_tied_head_comes_once():
    model = fresh(tie_word_embeddings=True)
    assert model.network.state_dict().keys() - dict(merged(model)).keys() == {"lm_head.weight"}


def test_a_plain_network_with_the_merged_weights_is_the_adapted_policy():
    model, other = adapted(), fresh()
    other.network.load_state_dict(dict(merged(model)), strict=True)
    torch.testing.assert_close(logits(other.network), logits(model.network), rtol=1e-5, atol=1e-5)
    assert float((logits(other.network) - logits(fresh().network)).abs().max()) > 0.1


def test_with_the_adapter_off_they_are_the_start_models():
    found, start = dict(merged(reference(adapted()))), fresh().network.state_dict()
    assert found.keys() == start.keys() and all(torch.equal(found[name], start[name]) for name in found)


def test_merging_leaves_the_policy_as_it_is():
    model = adapted()
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    dict(merged(model))
    after = model.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@dataclass
class Nudge:
    """One bit of one weight, written past autograd's version counter."""

    name: str

    def __call__(self, model: LanguageModel) -> None:
        weight = dict(model.network.named_parameters())[self.name].data.view(-1)
        weight[3] = torch.nextafter(weight[3], torch.tensor(9.0))


def test_the_fingerprint_changes_with_every_weight_and_with_nothing_else():
    model = fresh()
    first = fingerprint(model)
    logits(model.network)
    assert fingerprint(model) == first == fingerprint(fresh())
    for name in dict(model.network.named_parameters()):
        Nudge(name)(model)
        assert fingerprint(model) != first, name
        first = fingerprint(model)


def test_the_fingerprint_knows_adapters_and_whether_they_are_on():
    model = adapted()
    first = fingerprint(model)
    assert fingerprint(reference(model)) != first == fingerprint(model)
    Nudge(next(name for name, _ in model.network.named_parameters() if "lora_A" in name))(model)
    assert fingerprint(model) != first


def test_half_precision_has_a_fingerprint():
    model = fresh()
    model.network.to(torch.bfloat16)
    assert fingerprint(model) == fingerprint(model)


def test_the_plain_network_is_the_one_inside_the_adapter():
    model = adapted()
    assert plain(model) is model.causal_lm and plain(fresh()).__class__ is plain(model).__class__


def test_what_an_adapter_is_told_by_is_there_without_asking_a_module_for_its_parts():
    # From Python 3.12 on `isinstance` finds no more than this, and adapters would be left out in silence.
    model = adapted()
    layers = [module for module in plain(model).modules() if isinstance(module, AdapterLayer)]
    assert len(layers) == 4
    for protocol, subject in ((AdapterLayer, layers[0]), (Adapted, model.network), (Saveable, model.network)):
        for name in (name for name in vars(protocol) if not name.startswith("_")):
            inspect.getattr_static(subject, name)
