"""Curves of mirror maps as numbers: h, h' and D(p, q) of configured divergences beside KL and L2.

    echo '[["neural_mirror", "divergence.beta=0.1"]]' | python -m mirrorpo.tools.mirror_map_curves

Reads a JSON list of requests, each of names of conf/divergence and settings of all of them, and writes a list
as long: curves, or {"error": reason}. No model is loaded, so that it starts quickly.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol, TypedDict

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from torch import Tensor

from mirrorpo.config.paths import conf
from mirrorpo.config.schema import register, resolved
from mirrorpo.core.protocols import Divergence
from mirrorpo.divergence.potentials import HasPotential
from mirrorpo.train.build_penalty import build_penalty

BESIDE = ("kl_exact", "probl2_exact")
ANCHORS = (0.5, 0.05)


class MirrorMap(Protocol):
    """A potential and its derivative."""

    def f(self, p: Tensor) -> Tensor: ...

    def df(self, p: Tensor) -> Tensor: ...


def curves(divergence: Divergence, p: Tensor, q: float) -> Tensor:
    """D at every p against one q: of a coin, or of the sampled token."""
    log_q = torch.full_like(p, q).log()
    if divergence.reads in ("vocabulary", "top"):
        policy, anchor = (torch.stack([log, torch.log1p(-log.exp())], dim=-1) for log in (p.log(), log_q))
        value = divergence(policy, anchor, policy)
        # Of what each of the coin's sides would give, the mean.
        return value if divergence.reads == "vocabulary" else (policy.exp() * value).sum(dim=-1)
    return divergence(p.log(), log_q, p.log())


def shape(potential: MirrorMap, p: Tensor) -> tuple[Tensor, Tensor]:
    """h and h' with h(1/2) = h'(1/2) = 0 and h''(1/2) = 1; not divided where it is zero."""
    middle = torch.tensor(0.5, dtype=p.dtype).requires_grad_()
    slope = potential.df(middle)
    (curvature,) = torch.autograd.grad(slope, middle)
    size = curvature if bool(curvature) else torch.ones_like(curvature)
    h = potential.f(p) - potential.f(middle).detach() - slope.detach() * (p - middle.detach())
    return h / size, (potential.df(p) - slope.detach()) / size


P = torch.linspace(1e-4, 1 - 1e-4, 400, dtype=torch.float64)


class Curves(TypedDict):
    """One divergence's h, h' and D(p, q) for each anchor q; no h where it is made of no potential."""

    h: list[float] | None
    slope: list[float] | None
    D: list[list[float]]


class CurvesFile(TypedDict):
    """What is written: the probabilities, the anchors, and curves by divergence."""

    p: list[float]
    anchors: list[float]
    curves: dict[str, Curves]


def numbers(divergences: Mapping[str, Divergence]) -> CurvesFile:
    """What `draw` draws, as lists."""
    out: CurvesFile = {"p": P.tolist(), "anchors": list(ANCHORS), "curves": {}}
    for name, divergence in divergences.items():
        h, slope = None, None
        if isinstance(divergence, HasPotential):
            h, slope = (values.detach().tolist() for values in shape(divergence.potential, P))
        out["curves"][name] = {
            "h": h,
            "slope": slope,
            "D": [curves(divergence, P, q).detach().tolist() for q in ANCHORS],
        }
    return out


class Refusal(TypedDict):
    """Why there are no curves."""

    error: str


def answers(requests: Sequence[Sequence[str]]) -> list[CurvesFile | Refusal]:
    """The curves of each request, names of conf/divergence with settings of all of them, or why not."""
    out: list[CurvesFile | Refusal] = []
    for request in requests:
        try:
            out.append(numbers(configured(request)))
        except ValueError as error:
            out.append({"error": str(error)})
    return out


def configured(arguments: Sequence[str]) -> dict[str, Divergence]:
    """The divergences that some arguments name, by name, and those that are always drawn beside them.

    Args:
        arguments: names, and settings of all that are named; what is only drawn beside keeps its own.

    Raises:
        ValueError: in one line, if a name is no file of conf/divergence, or does not take the settings.
    """
    names = [argument for argument in arguments if "=" not in argument]
    settings = tuple(argument for argument in arguments if "=" in argument)
    return {name: _divergence(name, settings if name in names else ()) for name in (*names, *BESIDE)}


@cache
def _divergence(name: str, settings: tuple[str, ...]) -> Divergence:
    files = sorted(path.stem for path in (conf() / "divergence").glob("*.yaml"))
    if name not in files:
        raise ValueError(
            f"divergence={name}: the package has no such file, and a config folder of your own is not read "
            f"here; conf/divergence has {', '.join(files)}"
        )
    register()
    try:
        with initialize_config_dir(str(conf()), version_base="1.3"):
            config = resolved(compose("train", overrides=[f"divergence={name}", *settings]))
        return build_penalty(config["divergence"]).divergence
    except (HydraException, ValueError) as error:
        # The lines behind the first list what Hydra knows.
        raise ValueError(f"divergence={name}: {str(error).splitlines()[0]}") from error


if __name__ == "__main__":
    json.dump(answers(json.load(sys.stdin)), sys.stdout)
