import json
from pathlib import Path

import pytest
import torch

from mirrorpo.divergence.neural_mirror import ParametersFile
from mirrorpo.tools.search_report import main, read_search, shape, verdict

ENTROPY = ParametersFile(path="mirrorpo:negative_entropy", signed=False).values


def searched(folder: Path, levels: list[float], *, shuffled: bool, **settings: object) -> Path:
    es = folder / "es"
    es.mkdir(parents=True)
    (es / "settings.json").write_text(json.dumps({"shuffled": shuffled, **settings}))
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


def test_chance_is_said_of_searches_that_differ_in_seeds_alone(tmp_path: Path) -> None:
    def verdict_beside(levels: list[float], **settings: object) -> str:
        like = {"fitness": "area:reward/mean", "pairs": 5, "seed": 42, "overrides": ["name=a", "steps=9"]}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        real = searched(folder / "real", [0.1, 0.4], shuffled=False, **like)
        null = searched(folder / "null", levels, shuffled=True, **{**like, **settings})
        return verdict([read_search(real), read_search(null)])

    others = {"seed": 1, "overrides": ["name=b", "out=/elsewhere", "seed=3", "steps=9", "tracking=none"]}
    assert "once in 2 times" in verdict_beside([0.1, 0.1], **others)
    for said, levels, settings in (
        ("null has pairs=2 for 5", [0.1, 0.1], {"pairs": 2}),
        ("null has overrides=['steps=10'] for ['steps=9']", [0.1, 0.1], {"overrides": ["steps=10"]}),
        ("null has generations done=3 for 2", [0.1] * 3, {}),
    ):
        text = verdict_beside(levels, **settings)
        assert said in text and "once in" not in text


def test_a_folder_of_an_older_search_is_named(tmp_path: Path) -> None:
    folder = searched(tmp_path, [0.1], shuffled=False)
    (folder / "es" / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no search"):
        read_search(folder)


def test_negative_entropy_has_the_shape_of_kl_at_any_size() -> None:
    assert shape(3 * ENTROPY) == pytest.approx([1.0] * 6)
    square = torch.zeros(380, dtype=torch.float64)
    square[378] = 1.0
    assert min(shape(square)) < 0.7
