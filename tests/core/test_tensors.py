"""The typed forms give what torch's methods give."""

import torch

from mirrorpo.core.tensors import (
    all_finite,
    chunks,
    distinct_index,
    flags,
    integers,
    moved,
    numbers,
    packed,
    unpacked,
)


def test_they_are_torchs_own_results() -> None:
    values = torch.tensor([[7, 3], [1, 1], [7, 3]])
    assert integers(values[0]) == values[0].tolist()
    assert flags(values[0] > 3) == [True, False]
    assert all(there is value for there, value in zip(moved([values], values.device), [values], strict=True))
    assert torch.equal(distinct_index(values), torch.unique(values, return_inverse=True)[1])
    assert distinct_index(values, dim=0).tolist() == [1, 0, 1]
    assert [len(chunk) for chunk in chunks(values, 2)] == [2, 1]
    assert torch.equal(torch.cat(chunks(values, 2)), values)


def test_what_is_packed_comes_out_as_it_was_of_any_width() -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = [
        torch.rand(3, 5, generator=draw) < 0.5,
        torch.randn(2, 3, generator=draw)[:, 1:],
        torch.randint(9, (4,), generator=draw),
        torch.tensor(7),
        torch.randn(3, generator=draw).bfloat16(),
        torch.zeros(2, 0),
        torch.randn(2, 2, generator=draw).double(),
    ]
    together = packed(tensors)
    assert together.numel() == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    for before, after in zip(tensors, unpacked(together, tensors), strict=True):
        assert after.dtype == before.dtype and torch.equal(after, before)
    alone = torch.randn(2, 3, generator=draw)
    assert torch.equal(unpacked(packed([alone]), [alone])[0], alone)
    there = moved(tensors, torch.device("meta"))
    assert [(tensor.shape, tensor.dtype) for tensor in there] == [(t.shape, t.dtype) for t in tensors]
    assert moved([], torch.device("meta")) == [] and moved(tensors, torch.device("cpu"))[3] is tensors[3]


def test_one_number_that_is_none_is_seen_among_all_tensors_also_empty_ones_and_large_ones() -> None:
    fine = [torch.full((3,), 3e38), torch.zeros(0, 4), torch.full((2, 2), -3e38)]
    assert bool(all_finite(fine)) and bool(all_finite([torch.zeros(0)]))
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in range(2):
            tensors = [tensor.clone() for tensor in fine]
            tensors[2 * place].view(-1)[1] = bad
            assert not bool(all_finite(tensors)), (bad, place)
        assert not bool(all_finite([*fine, torch.tensor([bad]).bfloat16()])), bad
    assert numbers([]) == [] and numbers([torch.tensor(0.1), torch.tensor(2)]) == [
        float(torch.tensor(0.1)),
        2,
    ]
