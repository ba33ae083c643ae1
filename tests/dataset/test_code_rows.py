"""Rows of programs: a fault names file, row and fix."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mirrorpo.dataset.code_rows import gzip_rows, json_rows, numbered
from mirrorpo.dataset.jsonl import read_jsonl

ROW = {"task_id": 7, "code": "x", "test_list": ["assert x"], "setup": ""}
COLUMNS: Any = {"code": "text", "test_list": "texts", "setup": "optional text", "more": "optional texts"}


def test_rows_come_by_their_number() -> None:
    rows: Any = [("f, line 1", {**ROW, "task_id": "A/12"}), ("f, line 2", {**ROW, "setup": None})]
    assert list(numbered(rows, COLUMNS)) == [12, 7]


def test_a_bad_row_is_named_with_the_fix() -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"test_list": None}, r"\(task_id 7\): test_list is null; write a list of texts, or delete the row"),
        ({"test_list": "assert x"}, r'test_list is "assert x"; write a list of texts'),
        ({"test_list": ["assert x", None]}, r'test_list is \["assert x", null\]; write a list of texts'),
        ({"code": 3}, "code is 3; write a text, or delete the row"),
        ({"setup": []}, r"setup is \[\]; write a text"),
        ({"more": {"a": 1}}, "more is .*; write a list of texts"),
        ({"task_id": None}, "task_id is null; write a number"),
        ({"task_id": "seven"}, 'task_id is "seven"; write a number'),
        ({"task_id": 8}, "task_id 8 is that of f, line 1 too; delete or renumber one"),
    ]
    for change, fault in changes:
        rows: Any = [("f, line 1", {**ROW, "task_id": 8}), ("f, line 2", {**ROW, **change})]
        with pytest.raises(ValueError, match=rf"^f, line 2.*{fault}"):
            numbered(rows, COLUMNS)


def test_a_byte_order_mark_is_named_in_every_kind_of_file(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps(ROW)
    lines, listed, packed = (tmp_path / name for name in ("a.jsonl", "b.json", "c.jsonl.gz"))
    lines.write_text(text, encoding="utf-8")
    listed.write_text("\ufeff" + json.dumps([ROW]), encoding="utf-8")
    packed.write_bytes(gzip.compress(text.encode()))
    for path, read in ((lines, read_jsonl), (listed, json_rows), (packed, gzip_rows)):
        with pytest.raises(ValueError, match=rf"{path}.* byte-order mark; save the file as UTF-8 without"):
            read(path, ["task_id"])


def test_a_broken_file_is_named_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for read, content, fault in (
        (json_rows, b"[{", "is not JSON .*Fetch it again"),
        (json_rows, b"{}", "is a JSON dict, not a list"),
        (json_rows, b'[{"task_id": 1}, 2]', "row 2 is a JSON int, not an object"),
        (json_rows, b'[{"a": 1}]', "row 1 lacks the key 'task_id'"),
        (gzip_rows, gzip.compress(b'{"task_id": 1}\n')[:-9], "no whole gzip file .*Fetch it again"),
        (gzip_rows, b"plain", "no whole gzip file"),
        (gzip_rows, gzip.compress(b'\n{"task_id": 1}\n{"a"'), "line 3 is not JSON"),
        (gzip_rows, gzip.compress(b'{"a": 1}'), "line 1 lacks the key 'task_id'"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path}.*{fault}"):
            read(path, ["task_id"])
    with pytest.raises(ValueError, match=r"no file .*set MIRRORPO_DATA"):
        json_rows(tmp_path / "none", [])
