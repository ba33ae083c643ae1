import json
from pathlib import Path

import pytest
import torch

from mirrorpo.divergence.neural_mirror import ParametersFile
from mirrorpo.tools.search_report import main, read_search, shape

ENTROPY = ParametersFile(path="mirrorpo:negative_entropy", signed=False).values


def searched(folder: Path, levels: list[float], *, shuffled: bool) -> Path:
    es = folder / "es"
    es.mkdir(parents=True)
    (es / "settings.json").write_text(json.dumps({"shuffled": shuffled}))
    for name in ("map", "map_best", "map_start"):
        (es / f"{name}.json").write_text(json.dumps(ENTROPY.tolist()))
    for number, level in enumerate(levels):
        rows = [{"fitness": level}, {"fitness": level + 0.2}, {"fitness": None}]
        (es / f"result_{number:03d}.json").write_text(json.dumps({"candidates": rows}))
    return folder


def test_a_search_stands_beside_its_null_searches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = searched(tmp_path / "real", [0.1, 0.2, 0.4], shuffled=False)
    nulls = [searched(tmp_path / f"null{k}", [0.1, 0.1, 0.1 + k], shuffled=True) for k in range(2)]
    assert read_search(real).rise == pytest.approx(0.3) and read_search(real).best[0] == pytest.approx(0.3)
    main([str(real), *map(str, nulls)])
    out = capsys.readouterr().out
    assert "| real | +0.3000 |" in out and "| null1 (null) | +1.0000 |" in out
    assert "rose by more than 1 of 2 null searches" in out and "once in 3 times" in out
    main([str(real)])
    assert "No null search is here" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds no search"):
        main([str(tmp_path)])


def test_negative_entropy_has_the_shape_of_kl_at_any_size() -> None:
    assert shape(3 * ENTROPY) == pytest.approx([1.0] * 6)
    square = torch.zeros(380, dtype=torch.float64)
    square[378] = 1.0
    assert min(shape(square)) < 0.7
