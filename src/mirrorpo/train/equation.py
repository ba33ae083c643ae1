"""The loss of a cell as an equation with its numbers, from what its parts say of themselves."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

from mirrorpo.core.protocols import ChoosesTokens, SegmentCredit
from mirrorpo.divergence.placement import IN_LOSS
from mirrorpo.train.build import Components
from mirrorpo.weighting.unscored import Unscored

# What the penalty takes from a token's advantage, by placement (`divergence.placement.token_credit`).
TAKEN = {
    "reward": "k_t = D_t",
    "reward_to_go": "k_t = sum over s >= t of D_s",
    "loss_to_go": "k_t = sum over s > t of D_s",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A part of the loss.

    Attributes:
        symbol: what stands for it in the loss.
        group: the config group, or a setting of one, that it is.
        part: the object.
    """

    symbol: str
    group: str
    part: object

    def lines(self) -> list[str]:
        """What it is, its class, its equation with its numbers, and those of the parts that it is made of."""
        head = f"{self.symbol}  {self.group}: {described(self.part)}"
        return [head, *(f"    {line}" for line in equation_of(self.part)), *_inner(self.part)]


def loss(components: Components) -> str:
    """The loss of an update, in symbols."""
    algo, penalty = components.algo, components.penalty
    factors = ["c_t"] * (components.importance_correction is not None)
    factors += ["f_t"] * (components.trust_region.reads != "nothing")
    held = components.entropy if isinstance(components.entropy, ChoosesTokens) else None
    factors += ["h_t"] * (held is not None and held.keeps != 1)
    scoped = penalty.scope == "loss"
    signed = (penalty.acts and penalty.in_credit) or algo.token_normalisation is not None
    signed = signed or isinstance(components.weighting, SegmentCredit)
    signed = signed or components.entropy.reads == "sampled"
    credit = " ".join([*factors, f"l(log r_t, {'A_t' if signed else 'A_i'})"])
    penalised = f" + {penalty.beta:g} D_t" if penalty.acts and penalty.placement in IN_LOSS else ""
    penalised += " - c H_t" * (components.entropy.reads == "vocabulary")
    penalised += " + h_t" * (held is not None and held.keeps == 1)
    if signed:
        return f"L = aggregate[ {credit}{penalised} ]"
    if scoped and penalised:
        return f"L = aggregate[ w_t ({credit}{penalised}) ]"
    return f"L = aggregate[ w_t {credit}{penalised} ]"


def signed_credit(components: Components) -> list[str]:
    """How a token's credit is made, where it is more than a weight times an advantage; else empty."""
    penalty, normalisation = components.penalty, components.algo.token_normalisation
    segments = isinstance(components.weighting, SegmentCredit)
    takes, gains = penalty.acts and penalty.in_credit, components.entropy.reads == "sampled"
    if not takes and normalisation is None and not gains:
        return []
    lines: list[str] = []
    if takes and penalty.placement == "completion":
        lines.append(f"A_i of the rewards R_i - {penalty.beta:g} sum over t of D_t")
    kept = TAKEN.get(penalty.placement) if takes else None
    taken = "" if kept is None else f" - {penalty.beta:g} k_t"
    weighted = "w_t A_i" if normalisation is None else "w_t (A_i - m)"
    if segments:
        inside = f"S_t{'' if normalisation is None else ' - m'}{taken}"
    elif taken and penalty.scope == "loss":
        inside = f"w_t (A_i{'' if normalisation is None else ' - m'}{taken})"
    else:
        inside = weighted + taken
    gained = " - c log pi_old(y_t)" * gains
    lines.append(f"A_t = {inside}{gained}" if normalisation is None else f"A_t = ({inside}) / s{gained}")
    return lines if kept is None else [*lines, kept]


def terms(components: Components) -> Iterator[Term]:
    """The parts that stand in the loss, in its order."""
    algo, penalty, weighting = components.algo, components.penalty, components.weighting
    yield Term(symbol="aggregate", group="algo.aggregate", part=algo.aggregate)
    segments = isinstance(weighting, SegmentCredit)
    if segments:
        symbol = "S_t, its A_t" if signed_credit(components) else "A_t"
        yield Term(symbol=symbol, group="weighting", part=weighting)
    else:
        part = weighting.weighting if isinstance(weighting, Unscored) else weighting
        yield Term(symbol="w_t", group="weighting", part=part)
    if components.importance_correction is not None:
        yield Term(symbol="c_t", group="importance_correction", part=components.importance_correction)
    if components.trust_region.reads != "nothing":
        yield Term(symbol="f_t", group="trust_region", part=components.trust_region)
    if isinstance(components.entropy, ChoosesTokens):
        yield Term(symbol="h_t", group="entropy", part=components.entropy)
    if components.entropy.reads != "nothing":
        yield Term(symbol="c", group="entropy", part=components.entropy)
    yield Term(symbol="l", group="algo.surrogate", part=algo.surrogate)
    yield Term(symbol="r_t", group="algo.ratio", part=algo.ratio)
    if not segments:
        yield Term(symbol="A_i", group="algo.advantage", part=algo.advantage)
    if algo.update_advantage is not None:
        yield Term(symbol="A_i, at each update", group="algo.update_advantage", part=algo.update_advantage)
    if algo.token_normalisation is not None:
        yield Term(symbol="m, s", group="algo.token_normalisation", part=algo.token_normalisation)
    if penalty.acts:
        yield Term(symbol="D_t", group="divergence", part=penalty.divergence)
        yield Term(symbol="anchor", group="anchor", part=components.anchor)
        yield Term(symbol="beta", group="beta_schedule", part=components.beta_schedule)


def equation_of(part: object) -> list[str]:
    """The equation of a part's docstring, its indented block, with the part's numbers for their names.

    Empty where the class states none.

    Example:
        >>> from mirrorpo.algo.aggregate import FixedLength
        >>> equation_of(FixedLength(length=256))
        ['L = (1/(B 256)) sum_{i,t} m_it l_it']
    """
    lines, following = docstring_equation(part)
    for name, value in _numbers(part).items():
        lines = [re.sub(rf"(?<![\w.]){name}(?![\w(=])", f"{value:g}", line) for line in lines]
    # What the symbols are, where the next sentence says it.
    if following.startswith(("with ", "where ")):
        lines.append(re.split(r"(?<=[^.])\. |: | \(", following)[0].rstrip("."))
    return lines


def docstring_equation(part: object) -> tuple[list[str], str]:
    """The equation in the docstring of a part's class as it stands there, and the paragraph behind it.

    It is the first indented block; a function's may be the first line itself.
    """
    text = inspect.getdoc(type(part)) or ""
    paragraphs = re.split(r"\n\s*\n", text.partition("\nArgs:")[0].partition("\nAttributes:")[0])
    if re.match(r"\w+\(\w+\) = ", text):
        # A function that its first line states.
        return [re.split(r",? \(?(?:whose|Burg|negative|the)\b", " ".join(paragraphs[0].split()))[0]], ""
    for place, body in enumerate(paragraphs):
        # A block that alone follows the first line loses its indentation in `getdoc`.
        if re.match(r" {4}\S", body) or (place and all(" = " in line for line in body.splitlines())):
            lines = [line.removeprefix("    ").rstrip() for line in body.splitlines()]
            return lines, " ".join("".join(paragraphs[place + 1 : place + 2]).split())
    return [], ""


def _inner(part: object) -> list[str]:
    # The equations of a part's own parts, such as a divergence's potential.
    if not is_dataclass(part) or isinstance(part, type):
        return []
    inner = {field.name: getattr(part, field.name) for field in fields(part)}
    return [f"    {name}: {line}" for name, value in inner.items() for line in equation_of(value)]


def described(part: object) -> str:
    """A part's class with its settings, without those that are not set.

    Example:
        >>> from mirrorpo.algo.surrogate import Clipped
        >>> described(Clipped(low=0.2, high=0.28))
        'Clipped(low=0.2, high=0.28)'
    """
    if not is_dataclass(part) or isinstance(part, type):
        return getattr(part, "__name__", type(part).__name__)
    settings = ((field.name, getattr(part, field.name)) for field in fields(part) if field.repr)
    inside = ", ".join(f"{name}={_value(value)}" for name, value in settings if value is not None)
    return f"{type(part).__name__}({inside})" if inside else type(part).__name__


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return described(value) if is_dataclass(value) and not isinstance(value, type) else repr(value)


def _numbers(part: object) -> dict[str, float]:
    if not is_dataclass(part) or isinstance(part, type):
        return {}
    settings = {field.name: getattr(part, field.name) for field in fields(part)}
    return {
        name: value
        for name, value in settings.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
