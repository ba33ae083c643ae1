"""Joules by the machine's counters, where it shows any."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from mirrorpo.run.energy import Counter, EnergyMeter, energy_meter
from mirrorpo.train.budget import Budget
from mirrorpo.train.step import Progress


def zone(root: Path, name: str, microjoules: int, limit: int = 1_000_000_000) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    return folder


def test_processor_packages_count_once_and_begin_anew(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 999_000_000)
    zone(tmp_path, "intel-rapl:0:0", 1)
    zone(tmp_path, "intel-rapl:1", 5_000_000)
    meter = energy_meter(gpus=False, rapl=tmp_path)
    assert len(meter.counters) == 2 and meter.joules() == 0
    zone(tmp_path, "intel-rapl:0", 2_000_000)
    zone(tmp_path, "intel-rapl:1", 6_500_000)
    assert meter.joules() == pytest.approx(3 + 1.5)
    # A part that is forbidden meanwhile leaves no number, rather than a smaller one.
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.joules() is None is meter.joules()
    assert energy_meter(gpus=False, rapl=tmp_path / "none").joules() is None


def test_gpus_are_those_that_are_visible_and_without_theirs_there_is_no_energy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(tmp_path, "intel-rapl:0", 0)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_meter(gpus=True, rapl=tmp_path).counters == []
    used = {"0": 1_000, "1": 2_000, "GPU-b": 3_000}
    nvml = ModuleType("pynvml")
    nvml.__dict__.update(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=str,
        nvmlDeviceGetHandleByUUID=str,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: used[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    for visible, grown in (("1, GPU-b", 2.0), ("", 2.0), ("0", 1.0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        meter = energy_meter(gpus=True, rapl=tmp_path)
        meter.joules()
        for name in used:
            used[name] += 1_000
        assert meter.joules() == pytest.approx(grown), visible
    monkeypatch.setattr(nvml, "nvmlInit", raises)
    assert energy_meter(gpus=True, rapl=tmp_path).counters == []


def raises() -> None:
    raise RuntimeError("no driver")


def test_a_budget_has_energy_where_every_step_was_metered() -> None:
    progress = Progress(position=0, beta=0.1, budget=Budget(energy_j=0.0))
    assert progress.timings() == {"budget/device_s": 0.0}
    metered = progress.lasting(1.0, 5.0).lasting(1.0, 6.0)
    assert metered.timings() == {"budget/device_s": 2.0, "budget/energy_j": 11.0}
    assert metered.lasting(1.0, None).timings() == {"budget/device_s": 3.0}
    # A run that began before there was a meter.
    assert Progress(position=0, beta=0.1, budget=Budget.of({"device_s": 1.0})).lasting(
        1.0, 5.0
    ).timings() == {"budget/device_s": 2.0}
    assert EnergyMeter([Counter(lambda: 7, 1.0)]).joules() == 0
