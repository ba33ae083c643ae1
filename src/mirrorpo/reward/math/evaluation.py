"""Whether two expressions have the same value: exactly where they are rational, else to many digits.

Only the workers of `comparison.py` call this. Expressions come unevaluated from math-verify's parser, and
nothing here evaluates them whole: a number that would not fit is refused before it is made.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import mpmath
from sympy import (
    Add,
    And,
    Basic,
    Eq,
    Expr,
    FiniteSet,
    Float,
    Interval,
    MatrixBase,
    Mul,
    Pow,
    Rational,
    Symbol,
    Tuple,
    UnevaluatedExpr,
    factorial,
)

DIGITS = 400  # of the high precision; what still agrees in all but the last 20 is equal
ROUNDED = 1e-4  # of its size, how far a decimal may be from what it stands for
MOST_BITS = 20_000  # of an exact number
LARGEST_LOG2 = 1e12  # of an approximate one
LARGEST_WRITTEN = 10**5000  # math-verify multiplies powers and factorials out
MOST_FACTORS = 2_000  # of a factorial that is multiplied out

# Where expressions with variables are compared: both signs, different sizes, no special value.
POINTS = tuple(
    tuple(Fraction(sign * (7919 * (n + 3) + 104729 * k) % 4001 * sign + sign, 1009) for n in range(12))
    for k, sign in ((1, 1), (2, -1), (3, 1), (4, -1))
)

Value: TypeAlias = Any  # a Fraction, mpf or mpc; mpmath has no types
Number = tuple[Value, bool]  # its value, and whether it is a decimal that may be rounded
Same = Literal["same", "different", "unknown"]


class TooLarge(Exception):
    """A number whose size is beyond what is computed."""


class Opaque(Exception):
    """An expression that has no value that is known here."""


def same_value(gold: object, answer: object) -> Same:
    """Whether two scalar expressions are equal: as numbers, or as functions of the same variables.

    Functions are compared at a few points of both signs; "unknown" where something in them has no value that
    is known here, or no point decides.

    Raises:
        TooLarge: if the answer, or the gold, is a number beyond all use.
    """
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return "unknown"
    variables = sorted(map(str, gold.free_symbols))
    if variables != sorted(map(str, answer.free_symbols)) or len(variables) > len(POINTS[0]):
        return "unknown"
    try:
        if not variables:
            return _same_numbers(gold, answer)
        return _same_functions(gold, answer, variables)
    except Opaque:
        return "unknown"


def _same_numbers(gold: object, answer: object) -> Same:
    try:
        return "same" if exact(gold) == exact(answer) else "different"
    except Opaque:
        pass
    return "same" if _close(approximate(gold, {}), approximate(answer, {})) else "different"


def _same_functions(gold: object, answer: object, variables: Sequence[str]) -> Same:
    decided = 0
    for point in POINTS:
        at = dict(zip(variables, point, strict=False))
        try:
            if not _close(approximate(gold, at), approximate(answer, at)):
                return "different"
            decided += 1
        except ZeroDivisionError:
            continue
    return "same" if decided == len(POINTS) else "unknown"


def _close(first: Value, second: Value) -> bool:
    with mpmath.workdps(DIGITS):
        a, b = mpmath.mpmathify(first), mpmath.mpmathify(second)
        return bool(abs(a - b) <= mpmath.mpf(10) ** (20 - DIGITS) * max(1, abs(a), abs(b)))


def check_size(expression: object) -> None:
    """Refuse an expression that holds a number which nobody could write out.

    Raises:
        TooLarge: naming nothing, since its text may be as long.
    """
    if not isinstance(expression, Basic | MatrixBase):
        return
    for part in expression.atoms(Pow, factorial):
        if part.free_symbols:
            continue
        try:
            number = approximate(part, {})
        except (Opaque, ZeroDivisionError):
            continue
        if abs(number) > LARGEST_WRITTEN:
            raise TooLarge


def contradicts(gold: object, answer: object) -> bool:
    """Whether values within two answers are unequal though math-verify took the answers for equal.

    math-verify rounds, and it compares values of variables in any order. Here elements of sets and intervals
    are compared as numbers, where a decimal may be rounded. A list of values has to have the order of the
    equations that it is compared with, and a point or interval says no variable's value.
    """
    equations = [_equations(side) for side in (gold, answer)]
    if sum(len(set(lhs)) > 1 for lhs in equations) == 1 and [] in equations:
        if not (isinstance(gold, FiniteSet) and isinstance(answer, FiniteSet)):
            return True
        golds, answers = _listed(gold), _listed(answer)
    else:
        golds, answers = _numbers(gold), _numbers(answer)
    if golds is None or answers is None or len(golds) != len(answers):
        return False
    return any(_unequal(*pair) for pair in zip(golds, answers, strict=True))


def _equations(expression: object) -> list[object]:
    """The variables that an answer gives the values of by equations."""
    parts = expression.args if isinstance(expression, FiniteSet | And) else (expression,)
    return [part.lhs for part in parts if isinstance(part, Eq)]


def _listed(expression: object) -> list[Number] | None:
    # The parser keeps the order in which a set was written.
    parts = getattr(expression, "_unsorted_args", None) or getattr(expression, "args", ())
    return _values([part.rhs if isinstance(part, Eq) else part for part in parts])


def _numbers(expression: object) -> list[Number] | None:
    """The numbers that an answer consists of; None where it does not consist of numbers."""
    if isinstance(expression, Eq) and isinstance(expression.lhs, Symbol):
        expression = expression.rhs
    if isinstance(expression, Interval):
        return _values([expression.start, expression.end])
    if isinstance(expression, Tuple):
        return _values(expression.args)
    if isinstance(expression, FiniteSet):
        # math-verify sorts what it compares with a set.
        numbers = _values(expression.args)
        return None if numbers is None else sorted(numbers, key=_real)
    return _values(expression.flat() if isinstance(expression, MatrixBase) else [expression])


def _values(parts: Sequence[object]) -> list[Number] | None:
    if any(not isinstance(part, Expr) or part.free_symbols for part in parts):
        return None
    try:
        return [(_number(part), part.has(Float)) for part in parts if isinstance(part, Expr)]
    except (Opaque, ZeroDivisionError):
        return None


def _number(expression: object) -> Value:
    try:
        return exact(expression)
    except Opaque:
        return approximate(expression, {})


def _real(number: Number) -> Value:
    return mpmath.re(mpmath.mpmathify(number[0]))


def _unequal(gold: Number, answer: Number) -> bool:
    (a, gold_rounded), (b, answer_rounded) = gold, answer
    if not (gold_rounded or answer_rounded):
        return a != b if isinstance(a, Fraction) and isinstance(b, Fraction) else not _close(a, b)
    with mpmath.workdps(DIGITS):
        a, b = mpmath.mpmathify(a), mpmath.mpmathify(b)
        return bool(abs(a - b) > ROUNDED * max(abs(a), abs(b)))


def exact(expression: object) -> Fraction:
    """The value of an expression of rational numbers.

    Raises:
        Opaque: where it is no such expression, or its value is too long to write out.
    """
    if isinstance(expression, Rational):
        return Fraction(int(expression.p), int(expression.q))
    if isinstance(expression, Float):
        raise Opaque
    parts = [exact(part) for part in getattr(expression, "args", ())]
    if isinstance(expression, Add):
        return _short(sum(parts, Fraction(0)))
    if isinstance(expression, Mul):
        product = Fraction(1)
        for part in parts:
            product = _short(product * part)
        return product
    if isinstance(expression, Pow) and parts[1].denominator == 1:
        return _power(parts[0], parts[1].numerator)
    if isinstance(expression, factorial) and 0 <= parts[0] <= MOST_FACTORS and parts[0].denominator == 1:
        return Fraction(math.factorial(parts[0].numerator))
    if isinstance(expression, UnevaluatedExpr):
        return parts[0]
    raise Opaque


def _short(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MOST_BITS:
        raise Opaque
    return value


def _power(base: Fraction, exponent: int) -> Fraction:
    bits = base.numerator.bit_length() + base.denominator.bit_length()
    if (base == 0 and exponent < 0) or bits * abs(exponent) > MOST_BITS:
        raise Opaque
    return base**exponent


def approximate(expression: object, at: Mapping[str, Fraction]) -> Value:
    """The value of an expression to `DIGITS` digits, an mpf or mpc, with its variables at given values.

    Raises:
        Opaque: where something in it is not known here.
        TooLarge: where a number on the way is beyond what is computed.
        ZeroDivisionError: where it has no value.
    """
    with mpmath.workdps(DIGITS):
        if isinstance(expression, Rational):
            return mpmath.mpf(int(expression.p)) / int(expression.q)
        if isinstance(expression, Float):
            return mpmath.mpf(str(expression))
        if isinstance(expression, Symbol):
            value = at[expression.name] if expression.name in at else at[str(expression)]
            return mpmath.mpf(value.numerator) / value.denominator
        rule = RULES.get(type(expression).__name__)
        if rule is None:
            raise Opaque
        return rule(*(approximate(part, at) for part in getattr(expression, "args", ())))


def _not_zero(value: Value) -> Value:
    if value == 0:
        raise ZeroDivisionError
    return value


def _approximate_power(base: Value, exponent: Value) -> Value:
    if base == 0:
        if mpmath.re(exponent) < 0:
            raise ZeroDivisionError
        return mpmath.mpf(exponent == 0)
    # mpmath holds 2^n as n, so the size of n is what counts.
    magnitude = abs(mpmath.log(abs(base), 2)) * abs(exponent)
    if abs(exponent) > LARGEST_LOG2 or magnitude > LARGEST_LOG2:
        raise TooLarge
    return mpmath.power(base, exponent)


def _approximate_factorial(value: Value) -> Value:
    if abs(value) > 1e9:
        raise TooLarge
    if mpmath.isint(value) and value < 0:
        raise ZeroDivisionError
    return mpmath.factorial(value)


def _approximate_binomial(upper: Value, lower: Value) -> Value:
    if abs(upper) > 1e9 or abs(lower) > 1e9:
        raise TooLarge
    return mpmath.binomial(upper, lower)


# By the class of a sympy node, its value from the values of its parts.
RULES: Mapping[str, Callable[..., Value]] = {
    **{
        name: getattr(mpmath, name)
        for name in (
            *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc"),
            *("sinh", "cosh", "tanh", "coth", "asinh", "acosh", "atanh", "gamma", "erf", "zeta"),
        )
    },
    "Add": lambda *parts: mpmath.fsum(parts),
    "Mul": lambda *parts: mpmath.fprod(parts),
    "Pow": _approximate_power,
    "exp": lambda power: _approximate_power(mpmath.e, power),
    "log": lambda value, *base: mpmath.log(_not_zero(value), *base),
    "Abs": abs,
    "factorial": _approximate_factorial,
    "binomial": _approximate_binomial,
    "UnevaluatedExpr": lambda value: value,
    "ImaginaryUnit": lambda: mpmath.mpc(0, 1),
    "Exp1": lambda: +mpmath.e,
    "Pi": lambda: +mpmath.pi,
    "GoldenRatio": lambda: +mpmath.phi,
    "EulerGamma": lambda: +mpmath.euler,
}
