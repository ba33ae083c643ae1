"""A split is read once, though a run wants it for its questions, its fingerprint and its checks."""

from dataclasses import replace
from unittest.mock import patch

from cli import composed

from mirrorpo.config.schema import resolved
from mirrorpo.dataset import generated
from mirrorpo.dataset.arithmetic import Arithmetic
from mirrorpo.train.build import build_dataset


def test_questions_and_fingerprint_come_of_one_reading() -> None:
    with composed("dataset.train_size=20", "tracking=none") as (cfg, _):
        data = build_dataset(resolved(cfg))
    assert isinstance(data, Arithmetic)
    with patch("mirrorpo.dataset.arithmetic.filled", wraps=generated.filled) as made:
        first = list(data.load("train"))
        before = data.fingerprint("train"), data.fingerprint("test")
        assert made.call_count == 2
        assert data.load("train") == first and data.load("train") is not data.load("train")
        # Another object, and one of other settings, read for themselves.
        other = replace(data, data_seed=data.data_seed + 1)
        assert other.load("train") != first and made.call_count == 3
    assert replace(data).fingerprint("train") == before[0]
    assert replace(data) == data and "read_splits" not in repr(data)
