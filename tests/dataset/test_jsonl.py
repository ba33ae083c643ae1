"""A JSON Lines file is read whole, or the error says where it is broken."""

from pathlib import Path

import pytest

from mirrorpo.dataset.jsonl import read_jsonl, rows_hash


def written(folder: Path, content: bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    return path


def test_rows_come_in_order_with_their_text_untouched(tmp_path: Path) -> None:
    text = ' {"a": " caf\u00e9\u2028x \\u2028 "} \r\n{"a": "", "b": [1]}\n'
    rows = read_jsonl(written(tmp_path, text.encode("utf-8")), ["a"])
    assert rows == [{"a": " caf\u00e9\u2028x \u2028 "}, {"a": "", "b": [1]}]


def test_last_line_needs_no_line_break(tmp_path: Path) -> None:
    assert read_jsonl(written(tmp_path, b'{"a": 1}\n{"a": 2}'), ["a"]) == [{"a": 1}, {"a": 2}]


def test_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert read_jsonl(written(tmp_path, b""), ["a"]) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        pytest.param(b'{"a": "cut sho', "is not JSON .* Fetch the file again", id="truncated"),
        pytest.param(b"", "is not JSON", id="blank"),
        pytest.param(b'{"a": "\xe9"}', "is not JSON .*utf-8.* Fetch", id="latin-1"),
        pytest.param(b'["a"]', "is a JSON list, not an object; write one", id="list"),
        pytest.param(
            b'{"b": 1, "c": 2}', r"lacks the key 'a' \(it has \['b', 'c'\]\); add", id="missing key"
        ),
    ],
)
def test_a_broken_line_is_named_with_file_number_and_fix(tmp_path: Path, line: bytes, fault: str) -> None:
    path = written(tmp_path, b'{"a": 1}\n{"a": 2}\n' + line + b'\n{"a": 4}\n')
    with pytest.raises(ValueError, match=fault) as error:
        read_jsonl(path, ["a"])
    assert f"{path}, line 3 " in str(error.value)


def test_a_missing_file_is_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*absent\.jsonl; put it there, or set MIRRORPO_DATA"):
        read_jsonl(tmp_path / "absent.jsonl", ["a"])


def test_hash_sees_every_letter_the_order_and_the_borders() -> None:
    variants = [
        [("a", "b"), ("c", "d")],
        [("c", "d"), ("a", "b")],
        [("a", "b")],
        [("ab", ""), ("c", "d")],
        [("a", "b", "c", "d")],
        [("a", "b "), ("c", "d")],
        [],
    ]
    assert len({rows_hash(rows) for rows in variants}) == len(variants)
