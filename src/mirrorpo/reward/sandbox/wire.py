"""What passes between a program and its judge: plain values, in JSON that says each value's type, and nothing
that runs.

The program's side writes (`encode`), the judge's reads (`decode`), and the other way round for arguments. A
value of any other type stays with the program and travels as a number, a *handle*, that can be given back as
an argument; the program's own names are given to it as names.

Runs inside the sandbox's worker (`judge`), so it may import the standard library and its siblings only.
"""

import collections
import importlib
import json
import marshal
import os
import select
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

# A value of a program, or a name, a key or a message that carries one: it may be of any type.
Value: TypeAlias = Any

LARGEST_MESSAGE = 1 << 20  # bytes; a longer answer is none
LARGEST_COUNT = 100_000  # values inside a value, and items of an iterator that are read
DEEPEST = 100
MOST_FLATTENED = 5  # names of types that are sent with a value
NONCE = 32  # characters
_LENGTH = struct.Struct(">I")
# The encoder behind json.dumps, made once: every page of code that a new process does not touch is time
# saved.
_json = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)
_LAZY = (
    type(iter([])),
    type(iter(())),
    map,
    filter,
    zip,
    enumerate,
    reversed,
    type(_ for _ in ()),
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)


_PLAIN = (int, str, float, list, tuple, dict, set, frozenset)
# Of the type itself: a metaclass can have another __name__.
_TYPE_NAME = type.__dict__["__name__"].__get__


class NotPlain(Exception):
    """A value that is too large, too deep or endless to be sent."""


class Malformed(Exception):
    """Bytes that no honest sender writes."""


class Gone(Exception):
    """The other end is closed."""


class Handle:
    """The judge's name for an object that stays with the program; equal to itself only.

    Attributes:
        number: the program's key for it.
        kind: its type's name.
    """

    def __init__(self, number: int, kind: str) -> None:
        self.number, self.kind = number, kind

    def __repr__(self) -> str:
        return f"<{self.kind} of the program>"


class Encoder:
    """Python values to JSON values.

    Subclasses are sent as the built-in type below them, so their methods are never called.

    Example:
        >>> Encoder(repr)([1, (2.5, {"a": None})])
        ['list', 1, ['tuple', 2.5, ['dict', 'a', None]]]
    """

    def __init__(self, other: Callable[[Value], Value]) -> None:
        self.other = other  # what is written for a value of any other type
        self.flattened: dict[str, None] = {}  # names of types that were sent as a built-in one
        self._left = LARGEST_COUNT

    def __call__(self, value: Value, depth: int = 0) -> Value:
        self._left -= 1
        if self._left < 0 or depth > DEEPEST:
            raise NotPlain("too large" if self._left < 0 else "too deep")
        kind = type(value)
        if value is None or kind is bool or kind is float or kind is str:
            return value
        if kind not in _PLAIN and issubclass(kind, _PLAIN) and len(self.flattened) < MOST_FLATTENED:
            self.flattened[_TYPE_NAME(kind)] = None
        # By type, not by isinstance: __class__ can be made to lie.
        if issubclass(kind, bool | int):
            number = int.__index__(value)
            return number if -(1 << 53) < number < 1 << 53 else ["int", hex(number)]
        if issubclass(kind, str):
            return str.__str__(value)
        if issubclass(kind, float):
            return float.__float__(value)
        depth += 1
        if issubclass(kind, list):
            return ["list", *(self(item, depth) for item in list.__getitem__(value, slice(None)))]
        if issubclass(kind, tuple):
            return ["tuple", *(self(item, depth) for item in tuple.__iter__(value))]
        if issubclass(kind, dict):
            return ["dict", *(self(part, depth) for pair in dict.items(value) for part in pair)]
        if issubclass(kind, set):
            return ["set", *(self(item, depth) for item in set.__iter__(value))]
        if issubclass(kind, frozenset):
            return ["frozenset", *(self(item, depth) for item in frozenset.__iter__(value))]
        return self._rarer(value, kind, depth)

    def _rarer(self, value: Value, kind: type, depth: int) -> Value:
        if kind is bytes or kind is bytearray:
            return [kind.__name__, value.hex()]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind is range:
            return ["range", *(self(part) for part in (value.start, value.stop, value.step))]
        # A program that has such a value has imported its module; the others are spared the memory.
        if kind is getattr(sys.modules.get("decimal"), "Decimal", None):
            return ["decimal", str(value)]
        if kind is getattr(sys.modules.get("fractions"), "Fraction", None):
            return ["fraction", self(value.numerator), self(value.denominator)]
        if kind is collections.deque:
            return ["deque", *(self(item, depth) for item in value)]
        if kind is getattr(sys.modules.get("array"), "array", None):
            return ["array", value.typecode, *(self(item, depth) for item in value)]
        if kind in _LAZY:
            # One item more than may be sent shows that there is no end.
            return ["iterator", *(self(item, depth) for item in value)]
        return self.other(value)


def decode(node: Value, held: Callable[[str, Value, Value], Value], depth: int = 0) -> Value:
    """The value that `Encoder` was given.

    Args:
        node: what it made of it.
        held: what stands for ("handle", number, type) or ("name", name, "").
        depth: how deep the node lies in the message.

    Raises:
        Malformed: on anything that an encoder does not write.

    Example:
        >>> decode(["set", 1, ["tuple", "a"]], print) == {1, ("a",)}
        True
    """
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if not isinstance(node, list) or not node or depth > DEEPEST or not isinstance(node[0], str):
        raise Malformed("not a value")
    kind, rest = node[0], node[1:]
    try:
        match kind:
            case "int":
                return int(rest[0], 16)
            case "bytes" | "bytearray":
                return (bytes if kind == "bytes" else bytearray).fromhex(rest[0])
            case "handle" | "name":
                return held(kind, rest[0], rest[1])
        return _assembled(kind, [decode(part, held, depth + 1) for part in rest])
    except (TypeError, ValueError, ArithmeticError, IndexError, OverflowError) as error:
        raise Malformed(f"no {kind}") from error


def _assembled(kind: str, parts: list[Value]) -> Value:
    match kind:
        case "list":
            return parts
        case "tuple":
            return tuple(parts)
        case "dict":
            return dict(zip(parts[::2], parts[1::2], strict=True))
        case "set":
            return set(parts)
        case "frozenset":
            return frozenset(parts)
        case "iterator":
            return iter(parts)
        case "complex":
            return complex(*parts)
        case "range":
            return range(*parts)
        case "decimal":
            return importlib.import_module("decimal").Decimal(parts[0])
        case "fraction":
            return importlib.import_module("fractions").Fraction(*parts)
        case "deque":
            return collections.deque(parts)
        case "array":
            return importlib.import_module("array").array(parts[0], parts[1:])
    raise Malformed(f"no such type {kind!r}")


def give(pipe: int, nonce: str, message: Value) -> None:
    """Write one message of the judge, with the number that its answer must repeat.

    It is marshalled, since the program has no reason to mistrust it.
    """
    _write(pipe, nonce.encode() + marshal.dumps(message))


def take(pipe: int) -> tuple[str, Value]:
    """What the judge gave."""
    (length,) = _LENGTH.unpack(_read(pipe, _LENGTH.size))
    body = _read(pipe, length)
    return body[:NONCE].decode(), marshal.loads(body[NONCE:])


def _read(pipe: int, count: int) -> bytes:
    data = os.read(pipe, count)
    while len(data) < count:
        more = os.read(pipe, count - len(data))
        if not more:
            raise Gone
        data += more
    return data


def send(pipe: int, nonce: str, message: Value) -> None:
    """Write one answer of the program, with the number of the call that it answers."""
    body = nonce.encode() + "".join(_json(message, 0)).encode()
    if len(body) > LARGEST_MESSAGE:
        raise NotPlain("too large")
    _write(pipe, body)


def _write(pipe: int, body: bytes) -> None:
    left = memoryview(_LENGTH.pack(len(body)) + body)
    while left:
        left = left[os.write(pipe, left) :]


def receive(pipe: int, deadline: float) -> tuple[str, Value]:
    """One answer's nonce and content.

    Raises:
        Gone: at the end of the pipe.
        TimeoutError: when the time is up; `deadline` is in seconds of the monotonic clock.
        Malformed: if it is too long or not JSON.
    """
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size, deadline))
    if not NONCE <= length <= LARGEST_MESSAGE:
        raise Malformed(f"a message of {length} bytes")
    body = _exactly(pipe, length, deadline)
    try:
        return body[:NONCE].decode("ascii"), json.loads(body[NONCE:])
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error


def _exactly(pipe: int, count: int, deadline: float) -> bytes:
    chunks: list[bytes] = []
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    while count:
        if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError
        chunk = os.read(pipe, count)
        if not chunk:
            raise Gone
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
