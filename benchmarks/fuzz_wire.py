"""Frames that a hostile program may write, to the judge's decoder: none may raise anything but its own error.

    python benchmarks/fuzz_wire.py                     # 1,000,000 frames
    python benchmarks/fuzz_wire.py --frames 10000 --seed 7

A frame is made by a grammar of everything that the decoder knows, right or wrong, and half of them have bytes
changed, cut out or repeated. One in a thousand is as large as a message may be. Afterwards the value is used
as tests do: compared, hashed, printed. No frame may take a second of processor time.
"""

import argparse
import contextlib
import json
import os
import random
import struct
import time
from collections import Counter

from mirrorpo.reward.sandbox.wire import LARGEST_MESSAGE, NONCE, Gone, Malformed, Value, decode, receive

KINDS = (
    "int",
    "bytes",
    "bytearray",
    "complex",
    "decimal",
    "fraction",
    "range",
    "list",
    "tuple",
    "dict",
    "set",
)
KINDS += ("frozenset", "iterator", "deque", "array", "handle", "name", "exec")
PRIME = 2**61 - 1  # ints that differ by it have one hash
LARGE = 60  # characters of a digit string that is large in its meaning only
MOST_S = 1.0  # of processor time, for one frame


def atom(draw: random.Random) -> Value:
    """A value in JSON's own types."""
    choices = (
        None,
        True,
        draw.choice((0, -1, 7, 2**53, -(2**53), 2**63, 10**18, draw.getrandbits(draw.randrange(1, 4000)))),
        draw.choice((0.0, -0.0, 1e308, float("inf"), float("nan"), 1e-320)),
        draw.choice(
            ("", "a", "0x" + "f" * draw.randrange(LARGE), "1e999999999", "-1E-99999999999999999999", "nan")
        ),
        draw.choice(("1/3", "0_1", "\ud800", "zz", "d", "u", "B", "1" * 5000, "int", "\0")),
        {},
        {"a": 1},
        [],
    )
    return draw.choice(choices)


def node(draw: random.Random, depth: int) -> Value:
    """A value of the wire, or nearly one."""
    if depth == 0 or draw.random() < 0.3:
        return atom(draw)
    parts = [node(draw, depth - 1) for _ in range(draw.choice((0, 1, 1, 2, 2, 3, 4)))]
    return [draw.choice(KINDS), *parts]


def large(draw: random.Random) -> Value:
    """As much as a message holds, of what costs the most."""
    kind = draw.choice(KINDS)
    size = LARGEST_MESSAGE - 100
    members = {
        0: ["int", hex(PRIME * 3 + 1)],
        1: 0,
        2: ["range", 0, 2**52, 1],
        3: ["fraction", ["int", "0x" + "f" * 16_000], ["int", "0x" + "e" * 16_000]],
        4: ["decimal", "9" * 9_999 + "e" + "1"],
        5: ["tuple", *[["int", hex(PRIME)]] * 100],
        6: ["decimal", "1e9999"],
    }
    member = members[draw.randrange(len(members))]
    count = size // (len(json.dumps(member, separators=(",", ":"))) + 1)
    if member == members[0]:
        return [kind, *(["int", hex(PRIME * k + 1)] for k in range(3, count * 9 // 10))]
    if draw.random() < 0.1:
        return [kind, "0x" + "f" * size]
    return [kind, *[member] * count]


def frame(draw: random.Random) -> bytes:
    """One message, with its length before it."""
    content = large(draw) if draw.random() < 0.001 else node(draw, draw.randrange(6))
    data = bytearray(json.dumps({"value": content}, separators=(",", ":")).encode())
    if draw.random() < 0.5:
        for _ in range(draw.randrange(1, 4)):
            first = draw.randrange(len(data) + 1)
            behind = min(len(data), first + draw.randrange(8))
            data[first:behind] = draw.choice(
                (b"", draw.randbytes(3), data[first:behind] * 3, b"[", b"]", b'"')
            )
    body = b"0" * NONCE + bytes(data)
    return struct.pack(">I", len(body)) + body


def outcome(data: bytes) -> str:
    """What becomes of a frame: a value that can be used as tests use one, or the decoder's own error."""
    reader = os.memfd_create("frame")
    try:
        os.write(reader, data)
        os.lseek(reader, 0, os.SEEK_SET)
        try:
            _, reply = receive(reader, time.monotonic() + 60)
            value = decode(reply.get("value") if isinstance(reply, dict) else None, lambda *key: key)
        except (Malformed, Gone) as error:
            return type(error).__name__
    finally:
        os.close(reader)
    # What a test does with it may raise in the test.
    with contextlib.suppress(TypeError, ValueError, ArithmeticError, RecursionError):
        hash(value)
    with contextlib.suppress(TypeError, ValueError, ArithmeticError, RecursionError):
        assert value != [1] or value == [1]
        str(value)
    return "value"


def main() -> None:
    """Run the frames and print what became of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    counts: Counter[str] = Counter()
    longest = 0.0
    for _ in range(options.frames):
        data = frame(draw)
        began = time.process_time()
        counts[outcome(data)] += 1
        longest = max(longest, time.process_time() - began)
    print(f"frames: {options.frames}, {dict(counts)}; longest {longest * 1000:.0f} ms of processor time")
    assert longest < MOST_S, f"a frame took {longest:.1f} s"


if __name__ == "__main__":
    main()
