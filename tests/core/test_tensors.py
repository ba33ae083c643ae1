"""The typed forms give what torch's methods give."""

import torch

from mirrorpo.core.tensors import chunks, distinct_index, flags, integers, moved


def test_they_are_torchs_own_results() -> None:
    values = torch.tensor([[7, 3], [1, 1], [7, 3]])
    assert integers(values[0]) == values[0].tolist()
    assert flags(values[0] > 3) == [True, False]
    assert all(there is value for there, value in zip(moved([values], values.device), [values], strict=True))
    assert torch.equal(distinct_index(values), torch.unique(values, return_inverse=True)[1])
    assert distinct_index(values, dim=0).tolist() == [1, 0, 1]
    assert [len(chunk) for chunk in chunks(values, 2)] == [2, 1]
    assert torch.equal(torch.cat(chunks(values, 2)), values)
