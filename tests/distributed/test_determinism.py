"""What deterministic=true is on a device, and that it says so."""

import os
from collections.abc import Iterator

import pytest
import torch
import torch.utils.deterministic

from mirrorpo.distributed.determinism import (
    naming_the_setting,
    set_deterministic,
    strict_where_possible,
)

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
REFUSED = (
    "kthvalue CUDA does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation."
)


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """Put back afterwards."""
    mode, filled = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.backends.cuda.enable_cudnn_sdp(cudnn)


def refuse() -> None:
    raise RuntimeError(REFUSED)


def test_empty_tensors_are_not_filled_and_cublas_is_told_before_its_first_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    set_deterministic(False)
    assert torch.get_deterministic_debug_mode() == 0 and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    set_deterministic(True)
    assert torch.get_deterministic_debug_mode() == 1
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    # Filled, every floating-point number would be NaN.
    written = torch.full((1000,), 3.0)
    del written
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.empty(1000).isnan().all()


def test_cuda_is_strict_and_without_cudnns_attention_where_the_model_gets_by_on_it() -> None:
    modes: list[int] = []
    record = strict_where_possible(True, CUDA, lambda: modes.append(torch.get_deterministic_debug_mode()))
    assert modes == [2] and torch.get_deterministic_debug_mode() == 2
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert record["requested"] is True and str(record["holds"]).startswith("yes, for torch's kernels")


def test_a_model_that_does_not_get_by_on_it_runs_all_the_same_and_the_manifest_says_what_is_in_the_way() -> (
    None
):
    record = strict_where_possible(True, CUDA, refuse)
    assert torch.get_deterministic_debug_mode() == 1
    assert str(record["holds"]).startswith("no: kthvalue CUDA has no deterministic form, and attention's")

    def fail() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        strict_where_possible(True, CUDA, fail)


def test_on_a_cpu_and_where_nobody_wants_it_nothing_changes() -> None:
    set_deterministic(True)
    assert strict_where_possible(True, CPU, refuse) == {"requested": True, "holds": "yes"}
    assert torch.get_deterministic_debug_mode() == 1
    assert strict_where_possible(False, CUDA, refuse)["holds"] == "no: not requested"


def test_an_operation_that_is_refused_in_the_middle_of_a_run_names_the_setting() -> None:
    message = (
        "^deterministic=true: kthvalue CUDA has no deterministic form on this device; "
        "set deterministic=false$"
    )
    with pytest.raises(RuntimeError, match=message), naming_the_setting():
        refuse()
    with pytest.raises(ValueError, match="other"), naming_the_setting():
        raise ValueError("other")
