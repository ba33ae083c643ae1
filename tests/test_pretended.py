"""The package on a second device in the CPU's memory: no mix of devices, the CPU's numbers, counted costs.

Everything here runs in a process of its own, since torch keeps what a device registers.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pretended_cells
import pretended_meetings
import pretended_report
import pytest
from pretended import CAST, KERNEL, SYNC, UP, WEIGHT_CAST, Caller, own_process
from pretended_cells import EVERYTHING, KINDS
from rows import names

from mirrorpo.tools.model_table import architectures

# What a step may ask of a device, with one decoder layer, in bfloat16. `python tests/pretended_report.py`
# prints what it asks for now, and which lines do. A cost that has fallen is written down here, and stays so.
CEILINGS = {
    ("a sampled token", KERNEL): 99,
    ("a sampled token", CAST): 13,
    ("a sampled token", WEIGHT_CAST): 0,
    ("a sampled token", SYNC): 1,
    ("a compaction", KERNEL): 12,
    ("a compaction", SYNC): 0,
    ("a micro-batch", KERNEL): 440,
    ("a micro-batch", CAST): 41,
    ("a micro-batch", WEIGHT_CAST): 7,
    ("a micro-batch", SYNC): 1,
    ("an update of one micro-batch", KERNEL): 580,
    ("an update of one micro-batch", SYNC): 4,
    ("a step: drift", SYNC): 3,
    ("a step", UP): 6800,
    ("a step", WEIGHT_CAST): 21,
    ("a step", SYNC): 18,
}


@pytest.fixture(scope="module")
def there() -> Iterator[Caller]:
    """The process."""
    with own_process() as call:
        yield call


def test_the_device_refuses_allows_and_counts_as_a_gpu_would(there: Caller) -> None:
    device = there(pretended_meetings.everything)
    assert device["found"] == {}
    assert all(device["copies"].values())
    assert device["counts"] == {
        "bytes up": 20,
        "bytes down": 20,
        "kernels of a layer and an exponential": 2,
        "casts of a weight that is trained": 1,
        "casts of a weight in no_grad": 1,
        # Its cache keeps none there.
        "casts of a weight in inference_mode": 2,
        "casts to the wider type where it is that already": 0,
    }
    # As on CUDA: torch's documentation of autocast has the lists.
    assert device["dtypes"] == {
        "product": "bfloat16",
        "exponential": "float32",
        "sum": "float32",
        "softmax": "float32",
        "norm": "float32",
        "concatenation with the wider": "float32",
        "sum of both": "float32",
        "maximum": "bfloat16",
    }
    # A fault of the package is found, with its line.
    assert "aten.embedding" in device["planted"] and "at model/language_model.py:" in device["planted"]


def test_every_kind_of_row_runs_on_it_with_the_numbers_of_the_cpu(there: Caller) -> None:
    faults = there(pretended_cells.faults, KINDS)
    assert faults == dict.fromkeys(map(str, KINDS), "")


@pytest.mark.slow
def test_every_row_of_every_axis_runs_on_it_with_the_numbers_of_the_cpu(there: Caller) -> None:
    arms = pretended_cells.every_row()
    assert len(arms) == sum(len(names(axis)) for axis in pretended_cells.AXES) + len(pretended_cells.MASKINGS)
    faults = there(pretended_cells.faults, arms)
    assert faults == dict.fromkeys(map(str, arms), "")


def test_a_cell_has_the_numbers_of_the_cpu_and_resumes_to_its_own(there: Caller, tmp_path: Path) -> None:
    cpu, far, resumed = there(pretended_cells.cells, tmp_path, EVERYTHING)
    assert resumed == far and cpu.keys() == far.keys()
    # A CPU multiplies a head that is not trained with one prompt at a time, which rounds otherwise.
    rows, expected = (list(map(json.loads, files["metrics.jsonl"].splitlines())) for files in (far, cpu))
    assert len(rows) == 3
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["weighting=counterfactual", "optim=muon", "shared_prefix=always"],
        ["algo=sft", "weighting=entropy"],
        ["entropy=covariance", "entropy.share=0.2", "entropy.low=0.0", "updates_per_rollout=2"],
        ["algo=grpo", "rollout.top_p=0.9", "divergence=neural_mirror_exact"],
        [override for override in EVERYTHING if "lora" not in override],
        ["rollout.lag=1", "rollout.coarse=int8", "importance_correction=sequence_truncated"],
    ],
    ids=lambda overrides: " ".join(overrides[:2]),
)
def test_further_cells_have_the_numbers_of_the_cpu(
    there: Caller, overrides: Sequence[str], tmp_path: Path
) -> None:
    cpu, far, resumed = there(pretended_cells.cells, tmp_path, overrides)
    assert far == cpu and resumed == cpu


@pytest.mark.slow
def test_an_adapter_that_goes_on_resumes_to_the_same_numbers(there: Caller, tmp_path: Path) -> None:
    _, far, resumed = there(pretended_cells.cells, tmp_path, [*EVERYTHING, "lora@model.lora=continue"])
    assert resumed == far


@pytest.mark.slow
def test_a_cell_in_bfloat16_resumes_to_the_same_numbers(there: Caller, tmp_path: Path) -> None:
    _, far, resumed = there(pretended_cells.cells, tmp_path, [*EVERYTHING, "model.dtype=bfloat16"])
    assert resumed == far


@pytest.mark.slow
def test_every_architecture_can_be_read_on_it_in_every_way_that_it_can_on_the_cpu(there: Caller) -> None:
    # They are refused before a run, or make a tensor by changing one's shape, which the device does not know.
    kept = [name for name in architectures() if name not in ("rwkv", "longcat_flash")]
    closed = there(pretended_cells.closed_ways, kept)
    assert closed == dict.fromkeys(closed, "") and len(closed) > 80


def test_what_a_step_asks_of_the_device_stays_below_its_ceiling(there: Caller, tmp_path: Path) -> None:
    measured = there(pretended_report.measured, tmp_path)
    over = []
    for (unit, kind), ceiling in CEILINGS.items():
        count = measured[unit].of(kind)
        if count > ceiling:
            lines = pretended_report.printed(unit, measured[unit])
            over.append(f"{count:g} {kind} in {unit}, at most {ceiling}:{lines}")
    assert not over, "\n".join(over)
    # Nothing is below its ceiling for want of being measured.
    assert all(measured[unit].of(KERNEL) > 0 for unit, _ in CEILINGS)
