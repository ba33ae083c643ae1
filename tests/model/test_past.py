"""Whichever transformers is installed, a network gives its past and takes it back under one word."""

import torch
from engines import tiny

from mirrorpo.model.past import PAST


def test_a_network_that_is_given_its_past_goes_on_from_there() -> None:
    network, ids = tiny().network, torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        past = network(input_ids=ids[:, :3], use_cache=True)[PAST]
        behind = network(input_ids=ids[:, 3:], use_cache=True, **{PAST: past}).logits
        at_once, alone = network(input_ids=ids).logits[:, 3:], network(input_ids=ids[:, 3:]).logits
    assert torch.allclose(behind, at_once, atol=1e-5) and not torch.allclose(behind, alone, atol=1e-2)
