"""`python -m mirrorpo.explain`: what a cell is, before it runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from mirrorpo.launch import explain
from mirrorpo.launch.composing import composing

CELL = ("dataset=arithmetic", "model=tiny", "divergence=probl2", "divergence.beta=0.5", "eval_questions=4")


def test_a_cell_is_explained_and_a_wrong_one_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain.main(["--no-equal", *CELL, "weighting=entropy", "updates_per_rollout=2"]) == 0
    out = capsys.readouterr().out
    for line in (
        "    L = aggregate[ w_t l(log r_t, A_i) + 0.5 D_t ]",
        "        loss_t = -min( r_t A_t,  clip(r_t, 1 - 0.2, 1 + 0.2) A_t )",
        "    reads them without gradient: the old policy, the reference",
        "    weighting: a forward pass for the entropies",
        "    learns from them in 2 updates, forward and backward",
    ):
        assert line in out.splitlines(), line
    assert "GiB in update" in out
    assert explain.main(["--no-equal", "algo=nothing"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "algo" in error


def test_a_file_and_a_class_of_ones_own_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_explained.py").write_text(
        "class Twice:\n"
        '    """Twice the gap.\n\n        D_t = 2 (p - q)^2\n    """\n\n'
        "    reads = 'sampled'\n\n"
        "    def __call__(self, policy, anchor, old):\n"
        "        return 2 * (policy.exp() - anchor.exp()) ** 2\n"
    )
    (tmp_path / "conf" / "divergence").mkdir(parents=True)
    (tmp_path / "conf" / "divergence" / "mine.yaml").write_text(
        "_target_: mine_explained.Twice\nbeta: 0.5\nanchor: reference\nplacement: null\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["dataset=arithmetic", "model=tiny", "divergence=mine", "eval_questions=4"]
    assert explain.main(["--no-equal", "--config-dir", str(tmp_path / "conf"), *words]) == 0
    assert "        D_t = 2 (p - q)^2\n" in capsys.readouterr().out


def test_what_has_no_effect_is_said_and_makes_cells_equal() -> None:
    with composing():
        once = explain.composed([*CELL])
        regions = replace(once, choices={"trust_region": "none", "model": "tiny", "hydra/launcher": "local"})
        # The ratio is one: no token ever leaves a region.
        assert set(explain.equal_cells(regions)) == {
            f"trust_region={name}" for name in ("kl", "prefix_budget", "smooth", "tv")
        }
        twice = explain.composed([*CELL, "updates_per_rollout=2"])
        assert list(explain.equal_cells(replace(twice, choices={"trust_region": "none"}))) == []
    text = "\n".join(explain.without_effect(once))
    assert "algo.ratio, algo.surrogate:" in text and "updates_per_rollout=2 or more" in text
    assert "algo.surrogate:" not in "\n".join(explain.without_effect(twice))
