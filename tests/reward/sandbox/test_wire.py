"""What is sent comes back as it was; what is not plain does not come at all; what no sender writes is
refused.
"""

import collections
import contextlib
import decimal
import enum
import fractions
import json
import math
import os
import struct
import time
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorpo.reward.sandbox.wire import (
    DEEPEST,
    LARGEST_COUNT,
    LARGEST_MESSAGE,
    NONCE,
    Encoder,
    Gone,
    Malformed,
    NotPlain,
    decode,
    give,
    receive,
    send,
    take,
)

KINDS = ("int", "bytes", "complex", "decimal", "fraction", "range", "list", "dict", "set", "array", "handle")
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda some: (
        st.lists(some)
        | st.lists(some).map(tuple)
        | st.dictionaries(st.text() | st.integers(), some)
        | st.frozensets(st.integers() | st.text())
    ),
    max_leaves=20,
)


def other(value: Any) -> Any:
    return ["handle", 7, type(value).__name__]


def held(kind: str, key: Any, name: Any) -> Any:
    return (kind, key, name)


def through(value: Any) -> Any:
    return decode(json.loads(json.dumps(Encoder(other)(value))), held)


@given(PLAIN)
@settings(max_examples=60)
def test_plain_values_come_back_as_they_were_types_included(value: Any) -> None:
    back = through(value)
    assert back == value and type(back) is type(value)


RARER: list[Any] = [
    2**63,
    -(10**400),
    1e308,
    math.inf,
    -0.0,
    "\ud800",
    {1: "a", (2,): [3]},
    {"a", 1},
    bytearray(b"x"),
    range(3, 9, 2),
    decimal.Decimal("0.10"),
    fractions.Fraction(1, 3),
    collections.deque([1]),
    array("d", [1.5]),
    (),
    [],
    {},
    frozenset(),
]


def test_so_do_rarer_ones() -> None:
    for value in RARER:
        assert through(value) == value and type(through(value)) is type(value), value


def test_nan_stays_nan() -> None:
    assert math.isnan(through(math.nan))


def test_an_iterator_comes_as_an_iterator_over_the_same() -> None:
    assert next(through(iter([4, 5]))) == 4
    assert list(through(n * n for n in range(3))) == [0, 1, 4] and sorted(
        through({"b": 1, "a": 2}.keys())
    ) == ["a", "b"]


class Colour(enum.IntEnum):
    RED = 2


class Loud(str):
    def __str__(self) -> str:
        return "other"

    __repr__ = __str__


SUBCLASSES: list[tuple[Any, Any]] = [
    (collections.Counter("aab"), {"a": 2, "b": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (Colour.RED, 2),
    (Loud("quiet"), "quiet"),
    (collections.namedtuple("P", "x y")(1, 2), (1, 2)),
]


def test_a_subclass_is_sent_as_the_built_in_type_below_it() -> None:
    for value, sent in SUBCLASSES:
        assert through(value) == sent and type(through(value)) is type(sent), value


def test_everything_else_is_named_and_not_sent() -> None:
    assert through([object()]) == [("handle", 7, "object")]


@pytest.mark.parametrize("value", [[0] * (LARGEST_COUNT + 1), iter(int, 1)])
def test_what_is_too_large_is_refused_or_named(value: Any) -> None:
    if isinstance(value, list):
        with pytest.raises(NotPlain, match="too large"):
            Encoder(other)(value)
    else:
        assert Encoder(other)(value)[0] == "handle"


def test_an_endless_iterator_is_refused() -> None:
    with pytest.raises(NotPlain, match="too large"):
        Encoder(other)(n for n in iter(int, 1))


def test_what_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotPlain, match="too deep"):
        Encoder(other)(loop)


MALFORMED: list[Any] = [
    [],
    [1],
    {},
    {"a": 1},
    ["exec", 1],
    ["int", "ten"],
    ["int"],
    ["dict", 1],
    ["set", ["list"]],
    ["range", "a"],
    ["complex", "a", 1],
    ["decimal", "one"],
    ["fraction", 1, 0],
    ["bytes", "zz"],
    ["array", "?", 1],
    ["list", ["list", {}]],
    ["handle"],
    ["tuple", ["nope"]],
    # What is small to send and endless to use, or written otherwise than an encoder writes it.
    2**53,
    ["int", "0x5"],
    ["int", "0X" + "F" * 20],
    ["int", " 0x" + "f" * 20],
    ["int", "0x" + "f" * 20, 1],
    ["range", 0, 10**15, 1],
    ["range", 0, 10],
    ["range", 0, 10, 0],
    ["complex", 1, 2],
    ["complex", "1j"],
    ["decimal", "1e999999999"],
    ["decimal", "0e999999999"],
    ["decimal", "-1e-99999"],
    ["decimal", "1" * 20_000],
    ["decimal", 1],
    ["fraction", "1e999999999"],
    ["fraction", 1.5, 2],
    ["fraction", True, 2],
    ["fraction", ["int", "0x" + "f" * 20_000], 1],
    ["list", *[0] * LARGEST_COUNT],
    ["list", *[["list", *[0] * (LARGEST_COUNT // 2)]] * 2],
    ["set", *(["int", hex(k * (2**61 - 1))] for k in range(1, 1000))],
    ["frozenset", *(["tuple", ["int", hex(k * (2**61 - 1))]] for k in range(1, 1000))],
    ["dict", *(part for k in range(1, 1000) for part in (["int", hex(k * (2**61 - 1))], 0))],
    ["dict", 1, 2, 3],
    ["handle", "a", "int"],
    ["handle", 1, ["list"]],
    ["bytes", "00", "00"],
]


def test_what_no_sender_writes_is_malformed() -> None:
    for node in MALFORMED:
        try:
            decode(node, held)
        except Malformed:
            continue
        pytest.fail(f"{node} was decoded")


NODES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(("0xff", "1e999", "d")),
    lambda some: (
        st.lists(some) | st.builds(lambda kind, parts: [kind, *parts], st.sampled_from(KINDS), st.lists(some))
    ),
    max_leaves=20,
)


@given(NODES)
@settings(max_examples=100)
def test_no_node_raises_anything_but_that_it_is_malformed(node: Any) -> None:
    with contextlib.suppress(Malformed):
        decode(json.loads(json.dumps(node)), held)


TOO_LARGE: list[Any] = [
    range(10**15),
    range(0, -(10**15), -1),
    decimal.Decimal("1e999999999"),
    decimal.Decimal("1" * 20_000),
    fractions.Fraction(3**50_000, 2**80_000),
    {k * (2**61 - 1) for k in range(1000)},
    {k * (2**61 - 1): 0 for k in range(1000)},
]


def test_what_the_judge_would_refuse_is_not_sent_and_what_is_near_it_is() -> None:
    for value in TOO_LARGE:
        try:
            Encoder(other)(value)
        except NotPlain:
            continue
        pytest.fail(f"{value!r:.60} was sent")
    for value in (range(100_000), range(10**15, 0), decimal.Decimal("-1e9999"), set(range(-1, 50_000))):
        assert through(value) == value
    assert len(through([0] * (LARGEST_COUNT - 1))) == LARGEST_COUNT - 1


def test_what_is_nested_too_deep_is_malformed() -> None:
    node: Any = ["list"]
    for _ in range(DEEPEST + 2):
        node = ["list", node]
    with pytest.raises(Malformed):
        decode(node, held)


def soon() -> float:
    return time.monotonic() + 0.05


def test_an_answer_carries_its_number_and_the_judges_message_too() -> None:
    out, into = os.pipe()
    send(into, "a" * NONCE, {"value": ["list", 1]})
    assert receive(out, soon()) == ("a" * NONCE, {"value": ["list", 1]})
    give(into, "b" * NONCE, {"source": "x"}, soon())
    assert take(out) == ("b" * NONCE, {"source": "x"})
    with pytest.raises(TimeoutError):
        receive(out, soon())
    os.close(into)
    with pytest.raises(Gone):
        receive(out, soon())
    os.close(out)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", LARGEST_MESSAGE + 1),
        struct.pack(">I", 3) + b"abc",
        struct.pack(">I", NONCE + 1) + b"0" * NONCE + b"{",
    ],
)
def test_a_message_that_is_none_is_malformed(data: bytes) -> None:
    out, into = os.pipe()
    os.write(into, data)
    with pytest.raises(Malformed):
        receive(out, soon())
    os.close(into)
    os.close(out)


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(NotPlain):
        send(-1, "a" * NONCE, {"value": "x" * LARGEST_MESSAGE})
