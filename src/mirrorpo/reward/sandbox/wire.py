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
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

# A value of a program, or a name, a key or a message that carries one: it may be of any type.
Value: TypeAlias = Any

LARGEST_MESSAGE = 1 << 20  # bytes; a longer answer is none
LARGEST_COUNT = 100_000  # values inside a value, and items of an iterator that are read
LARGEST_DECIMAL = 10_000  # digits of a Decimal, and its exponent
LARGEST_FRACTION = 1 << 16  # bits of each part of a Fraction
MOST_COLLISIONS = 100  # members of a set, or keys, with one hash; more take quadratic time
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


_FAR = 1 << 53  # from here on an int is sent in digits
_PLAIN = (int, str, float, list, tuple, dict, set, frozenset)
# Of the type itself: a metaclass can have another __name__.
type_name = type.__dict__["__name__"].__get__


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
            self.flattened[type_name(kind)] = None
        # By type, not by isinstance: __class__ can be made to lie.
        if issubclass(kind, bool | int):
            number = int.__index__(value)
            return number if -_FAR < number < _FAR else ["int", hex(number)]
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
            _check_hashes(dict.keys(value), dict.__len__(value))
            return ["dict", *(self(part, depth) for pair in dict.items(value) for part in pair)]
        if issubclass(kind, set):
            _check_hashes(set.__iter__(value), set.__len__(value))
            return ["set", *(self(item, depth) for item in set.__iter__(value))]
        if issubclass(kind, frozenset):
            _check_hashes(frozenset.__iter__(value), frozenset.__len__(value))
            return ["frozenset", *(self(item, depth) for item in frozenset.__iter__(value))]
        return self._rarer(value, kind, depth)

    def _rarer(self, value: Value, kind: type, depth: int) -> Value:
        if kind is bytes or kind is bytearray:
            return [kind.__name__, value.hex()]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind is range:
            _check_range(value)
            return ["range", *(self(part, depth) for part in (value.start, value.stop, value.step))]
        # A program that has such a value has imported its module; the others are spared the memory.
        if kind is getattr(sys.modules.get("decimal"), "Decimal", None):
            return ["decimal", _checked_decimal(value)]
        if kind is getattr(sys.modules.get("fractions"), "Fraction", None):
            parts = [value.numerator, value.denominator]
            _check_fraction(parts)
            return ["fraction", *(self(part, depth) for part in parts)]
        if kind is collections.deque:
            return ["deque", *(self(item, depth) for item in value)]
        if kind is getattr(sys.modules.get("array"), "array", None):
            return ["array", value.typecode, *(self(item, depth) for item in value)]
        if kind in _LAZY:
            # One item more than may be sent shows that there is no end.
            return ["iterator", *(self(item, depth) for item in value)]
        return self.other(value)


def decode(node: Value, held: Callable[[str, Value, Value], Value]) -> Value:
    """The value that `Encoder` was given.

    Whatever the node is, in time and memory that its size bounds.

    Args:
        node: what it made of it.
        held: what stands for ("handle", number, type) or ("name", name, "").

    Raises:
        Malformed: on anything that an encoder does not write.

    Example:
        >>> decode(["set", 1, ["tuple", "a"]], print) == {1, ("a",)}
        True
    """
    return _Decoder(held)(node, 0)


class _Decoder:
    # Counts what `Encoder` counts, so that one takes what the other gives.
    def __init__(self, held: Callable[[str, Value, Value], Value]) -> None:
        self.held = held
        self._left = LARGEST_COUNT

    def __call__(self, node: Value, depth: int) -> Value:
        self._left -= 1
        if self._left < 0 or depth > DEEPEST:
            raise Malformed("too large or too deep")
        kind = type(node)
        if node is None or kind is bool or kind is float or kind is str:
            return node
        if kind is int:
            if not -_FAR < node < _FAR:
                raise Malformed("an int in digits")
            return node
        if kind is not list or not node or type(node[0]) is not str:
            raise Malformed("not a value")
        try:
            return self._held_or_built(node[0], node[1:], depth + 1)
        except (TypeError, ValueError, ArithmeticError, OverflowError, NotPlain) as error:
            raise Malformed(f"no {node[0][:40]}") from error

    def _held_or_built(self, kind: str, parts: list[Value], depth: int) -> Value:
        match kind, parts:
            case "int", [str(digits)]:
                number = int(digits, 16)
                if -_FAR < number < _FAR or hex(number) != digits:
                    raise Malformed("no int")
                return number
            case "bytes", [str(digits)]:
                return bytes.fromhex(digits)
            case "bytearray", [str(digits)]:
                return bytearray.fromhex(digits)
            case "complex", [float(real), float(imaginary)]:
                return complex(real, imaginary)
            case "decimal", [str(digits)] if len(digits) <= LARGEST_DECIMAL:
                number = importlib.import_module("decimal").Decimal(digits)
                _checked_decimal(number)
                return number
            case ("handle", [int(key), str(name)]) | ("name", [str(key), str(name)]):
                return self.held(kind, key, name)
            case "array", [str(typecode), *items]:
                values = [self(item, depth) for item in items]
                return importlib.import_module("array").array(typecode, values)
        return _assembled(kind, [self(part, depth) for part in parts])


def _assembled(kind: str, parts: list[Value]) -> Value:
    match kind:
        case "list":
            return parts
        case "tuple":
            return tuple(parts)
        case "dict":
            _check_hashes(parts[::2], len(parts) // 2)
            return dict(zip(parts[::2], parts[1::2], strict=True))
        case "set":
            _check_hashes(parts, len(parts))
            return set(parts)
        case "frozenset":
            _check_hashes(parts, len(parts))
            return frozenset(parts)
        case "iterator":
            return iter(parts)
        case "range" if len(parts) == 3:
            values = range(*parts)
            _check_range(values)
            return values
        case "fraction" if len(parts) == 2:
            _check_fraction(parts)
            return importlib.import_module("fractions").Fraction(*parts)
        case "deque":
            return collections.deque(parts)
    raise Malformed(f"no such type {kind[:40]!r}")


def _check_hashes(members: Iterable[Value], count: int) -> None:
    if count > MOST_COLLISIONS:
        counts: dict[int, int] = {}
        for code in map(hash, members):
            counts[code] = counts.get(code, 0) + 1
        if max(counts.values()) > MOST_COLLISIONS:
            raise NotPlain("members that share a hash")


def _check_range(values: range) -> None:
    # len() takes no more than a machine's word.
    if (values.stop - values.start) // values.step > LARGEST_COUNT:
        raise NotPlain("too large")


def _check_fraction(parts: list[Value]) -> None:
    if any(type(part) is not int or part.bit_length() > LARGEST_FRACTION for part in parts):
        raise NotPlain("too large")


def _checked_decimal(number: Value) -> str:
    # Its digits. int() of one with a large exponent fills the memory.
    if number.is_finite() and abs(number.adjusted()) > LARGEST_DECIMAL:
        raise NotPlain("too large")
    digits = str(number)
    if len(digits) > LARGEST_DECIMAL:
        raise NotPlain("too large")
    return digits


def give(pipe: int, nonce: str, message: Value, deadline: float) -> None:
    """Write one message of the judge, with the number that its answer must repeat.

    It is marshalled, since the program has no reason to mistrust it.

    Args:
        pipe: where to; it does not block.
        nonce: the number.
        message: what to write.
        deadline: in seconds of the monotonic clock; a program may be busy and read nothing.

    Raises:
        TimeoutError: when the time is up.
    """
    body = nonce.encode() + marshal.dumps(message)
    left = memoryview(_LENGTH.pack(len(body)) + body)
    while left:
        try:
            left = left[os.write(pipe, left) :]
        except BlockingIOError:
            if not _ready(pipe, select.POLLOUT, deadline):
                raise TimeoutError from None


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
    while count:
        if not _ready(pipe, select.POLLIN, deadline):
            raise TimeoutError
        chunk = os.read(pipe, count)
        if not chunk:
            raise Gone
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def _ready(pipe: int, events: int, deadline: float) -> bool:
    poller = select.poll()
    poller.register(pipe, events)
    return bool(poller.poll(max(deadline - time.monotonic(), 0) * 1000))
