"""Weights of a frozen network in the dtype that it computes in."""

import torch
from torch import Tensor
from torch.nn import Linear, Parameter

from mirrorpo.model.language_model import LanguageModel, embedded
from mirrorpo.model.modes import evaluating


def store_as_computed(model: LanguageModel) -> None:
    """Keep the matrices of a frozen model in its compute dtype, where that changes no bit of what it gives.

    Autocast casts the weight and bias of a linear layer to the compute dtype at every call, so that they may
    as well be stored in it: half of the memory, and no cast. Embeddings, norms and the head, which are read
    in float32, stay as they are. A network that makes something else of its linear layers is seen by a few
    tokens that go through it before and after, and keeps all of its weights.
    """
    if model.dtype == torch.float32:
        return
    before, linear = _few_states(model), _linear_parameters(model)
    narrow: dict[int, Parameter] = {}
    for _, _, parameter in linear:
        if id(parameter) not in narrow:
            narrow[id(parameter)] = Parameter(parameter.detach().to(model.dtype), requires_grad=False)
    for module, name, parameter in linear:
        setattr(module, name, narrow[id(parameter)])
    if not torch.equal(before, _few_states(model)):
        for module, name, parameter in linear:
            setattr(module, name, parameter)


def _linear_parameters(model: LanguageModel) -> list[tuple[Linear, str, Parameter]]:
    # Of linear layers, and of nothing else: no head, and no embeddings that a layer shares.
    head = model.causal_lm.get_output_embeddings()
    linear: list[tuple[Linear, str, Parameter]] = []
    others: set[int] = set()
    for module in model.network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if type(module) is Linear and module is not head:
                linear.append((module, name, parameter))
            else:
                others.add(id(parameter))
    return [entry for entry in linear if id(entry[2]) not in others]


def _few_states(model: LanguageModel) -> Tensor:
    # Two rows, one of them shorter.
    ids = torch.arange(16, device=model.device).view(2, 8) % embedded(model.causal_lm)
    present = torch.ones_like(ids, dtype=torch.bool)
    present[1, :3] = False
    with torch.no_grad(), evaluating(model.network):
        return model.hidden(ids, present, (present.cumsum(dim=1) - 1).clamp(min=0))[present]
