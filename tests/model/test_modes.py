"""Train and eval mode."""

import pytest
import torch

from mirrorpo.model.modes import evaluating


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_even_when_the_block_raises(training: bool) -> None:
    network = torch.nn.Sequential(torch.nn.Dropout()).train(training)
    with pytest.raises(RuntimeError), evaluating(network):
        assert not network[0].training
        raise RuntimeError
    assert network.training is network[0].training is training
