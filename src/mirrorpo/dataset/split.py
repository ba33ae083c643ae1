"""Which questions are held out of training: decided by the question's text, never by its place in a file."""

from hashlib import sha256


def bucket(text: str) -> float:
    r"""Where a text falls in [0, 1): its hash, uniform over texts and the same on every machine.

    Runs of whitespace count as one space and the ends are stripped, so a copy of a question that
    differs in its line breaks falls on the same number.

    >>> round(bucket("What is 1 + 1?"), 4)
    0.4491
    >>> bucket("What is 1 + 1?") == bucket("  What is 1 +\n1? ")
    True
    """
    digest = sha256(" ".join(text.split()).encode("utf-8")).digest()
    # 53 bits fit a float exactly; with all 64 the largest hash would round up to 1.0.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def held_out(question: str, fraction: float) -> bool:
    """Whether a question belongs to validation, with probability `fraction` over questions.

    A question held out at one fraction is held out at every larger one.

    >>> held_out("What is 1 + 1?", 0.0), held_out("What is 1 + 1?", 1.0)
    (False, True)
    """
    return bucket(question) < fraction
