import json
from pathlib import Path

import pytest
import torch

from mirrorpo.divergence.bregman import ExactBregman, SampledBregman
from mirrorpo.divergence.potentials import NegativeEntropy, Square
from mirrorpo.tools.mirror_map_curves import answers
from mirrorpo.tools.plot_mirror_maps import curves, main, shape

P = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.5, 1.0, 40.0])
def test_a_potentials_shape_does_not_depend_on_its_size(factor: float) -> None:
    h, slope = shape(Square(factor=factor), P)
    torch.testing.assert_close(h, (P - 0.5) ** 2 / 2)
    torch.testing.assert_close(slope, P - 0.5)


def test_the_shape_is_flat_at_one_half_with_curvature_one() -> None:
    h, slope = shape(NegativeEntropy(), P)
    torch.testing.assert_close(slope, P.log() / 2 - torch.tensor(0.5, dtype=torch.float64).log() / 2)
    assert float(h.min()) == pytest.approx(0.0, abs=1e-12) and int(h.argmin()) == 9


def test_a_curve_is_the_divergence_of_a_coin_where_the_vocabulary_is_read_and_the_tokens_term_where_not() -> (
    None
):
    kl = P * (P / 0.2).log() + (1 - P) * ((1 - P) / 0.8).log()
    coin = ExactBregman(potential=NegativeEntropy(), direction="reverse")
    torch.testing.assert_close(curves(coin, P, 0.2), kl)
    token = SampledBregman(potential=Square(factor=1.0))
    torch.testing.assert_close(curves(token, P, 0.2), (P - 0.2) ** 2)


def test_the_command_draws_every_kind_of_divergence_into_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "maps.png"
    monkeypatch.setattr(
        "sys.argv", ["mirror_maps", "tsallis_exact", "kl", "chi2_exact", "none", "--out", str(out)]
    )
    main()
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_the_curves_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "maps.json"
    monkeypatch.setattr("sys.argv", ["mirror_maps", "kl", "probl2", "--out", str(out)])
    main()
    written = json.loads(out.read_text())
    p = torch.tensor(written["p"], dtype=torch.float64)
    torch.testing.assert_close(
        torch.tensor(written["curves"]["probl2"]["D"][0], dtype=torch.float64),
        (p - written["anchors"][0]) ** 2,
    )
    assert written["curves"]["kl"]["h"] is None and set(written["curves"]) == {
        "kl",
        "probl2",
        "kl_exact",
        "probl2_exact",
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nope"], r"^error: divergence=nope: [^\n]*probl2[^\n]*$"),
        (["none", "divergence.beta=1.0"], r"^error: divergence=none: [^\n]*$"),
        (["kl", "divergence.beta=-1.0"], r"beta=-1\.0"),
    ],
)
def test_what_does_not_compose_is_refused_with_its_reason(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["mirror_maps", *arguments, "--out", str(tmp_path / "maps.png")])
    with pytest.raises(SystemExit, match=reason):
        main()
    assert not (tmp_path / "maps.png").exists()


def test_curves_of_several_settings_come_in_one_answer_with_the_reason_where_there_are_none() -> None:
    kl, l2, refused = answers([["kl"], ["probl2", "divergence.beta=0.5"], ["nope"]])
    assert "curves" in kl and set(kl["curves"]) == {"kl", "kl_exact", "probl2_exact"}
    assert "curves" in l2 and "probl2" in l2["curves"]
    assert "error" in refused and refused["error"].startswith("divergence=nope: ")


def test_settings_are_of_what_is_named_and_not_of_what_is_drawn_beside() -> None:
    named, beside = answers(
        [[name, "divergence.potential.factor=3.0"] for name in ("probl2_exact", "probl2")]
    )
    values = [
        torch.tensor(answer["curves"]["probl2_exact"]["D"][0], dtype=torch.float64)
        for answer in (named, beside)
    ]
    torch.testing.assert_close(values[0], 3 * values[1])
