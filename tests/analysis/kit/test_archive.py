"""A sweep as one file: the same bytes again, everything wrong with a copy named, one run run again."""

import hashlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import ROOT, SMALL, folders, manifest, succeeded, train
from falsified import Sweep, clean_sweep

from analysis.__main__ import main
from analysis.kit.archive import archive
from analysis.kit.contents import CONTENTS
from analysis.kit.rerun import _compared, _first_difference, rerun
from analysis.kit.unpack import unpack
from analysis.kit.verify import verify
from analysis.study.options import StudyOptions
from mirrorpo.run.manifest import sealed

Members = list[tuple[tarfile.TarInfo, bytes]]
ARM = ",weighting=uniform,model=tiny,dataset=arithmetic"
OPTIONS = StudyOptions(axis="divergence", margin=2.0)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    made = clean_sweep(tmp_path_factory.mktemp("outputs") / "sweep")
    for run in made.runs:
        (run / "policy").mkdir(exist_ok=True)
        (run / "policy" / "model.safetensors").write_bytes(b"weights")
        (run / "eval" / ".hidden").write_text("no")
    return made


@pytest.fixture(scope="module")
def packed(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "sweep.tar.gz"
    archive(sweep.root, path, OPTIONS)
    return path


def members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar if member.isreg()]  # type: ignore[union-attr]


def rewritten(path: Path, target: Path, change: Callable[[Members], object]) -> Path:
    """The archive with its members changed in place."""
    read = members(path)
    change(read)
    with tarfile.open(target, "w:gz") as tar:
        for member, content in read:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return target


def added(name: str, kind: bytes = tarfile.REGTYPE) -> Callable[[Members], object]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return lambda read: read.append((member, b"more" if kind == tarfile.REGTYPE else b""))


def edited(name: str, change: Callable[[bytes], bytes]) -> Callable[[Members], object]:
    def edit(read: Members) -> None:
        (place,) = (place for place, (member, _) in enumerate(read) if member.name.endswith(name))
        read[place] = (read[place][0], change(read[place][1]))

    return edit


def without(name: str) -> Callable[[Members], object]:
    return lambda read: read.remove(next(entry for entry in read if entry[0].name.endswith(name)))


@pytest.mark.slow
def test_the_same_files_give_the_same_bytes_wherever_they_lie_and_no_weights(
    sweep: Sweep, packed: Path, tmp_path: Path
) -> None:
    shutil.copytree(sweep.root, tmp_path / "elsewhere" / "sweep")
    for path in (tmp_path / "elsewhere").rglob("*.jsonl"):
        path.touch()
    archive(tmp_path / "elsewhere" / "sweep", tmp_path / "other.tar.gz", OPTIONS)
    assert (tmp_path / "other.tar.gz").read_bytes() == packed.read_bytes()
    names = [member.name for member, _ in members(packed)]
    assert names[0] == f"sweep/{CONTENTS}" and names[1:] == sorted(names[1:])
    assert not any("policy" in name or "checkpoints" in name or ".hidden" in name for name in names)
    assert {"sweep/multirun.yaml", "sweep/archive/checklist.md", "sweep/archive/tables/cost.md"} <= {*names}
    assert {(member.mtime, member.uid, member.mode) for member, _ in members(packed)} == {(0, 0, 0o644)}
    with pytest.raises(ValueError, match=r"--to x\.zip: give the file the ending \.tar\.zst or \.tar\.gz"):
        archive(sweep.root, Path("x.zip"), OPTIONS)


@pytest.mark.slow
def test_weights_are_in_it_where_they_are_wanted_and_zstandard_is_read_too(
    sweep: Sweep, tmp_path: Path
) -> None:
    line = archive(sweep.root, tmp_path / "all.tar.zst", OPTIONS, weights=True)
    assert "4 runs" in line and str(tmp_path) in line
    (tmp_path / "in").mkdir()
    unpacked = unpack(tmp_path / "all.tar.zst", tmp_path / "in")
    assert not unpacked.faults and len(list(unpacked.root.rglob("policy/model.safetensors"))) == 4


def test_its_digests_and_its_tables_are_verified(packed: Path) -> None:
    lines, holds = verify(packed)
    assert holds and "have the sha256" in lines[0] and "tables and the checklist" in lines[1], lines


def test_whatever_is_wrong_with_a_copy_is_named(packed: Path, tmp_path: Path) -> None:
    metrics = "seed=1/metrics.jsonl"
    cases: dict[str, tuple[Callable[[Members], object], str]] = {
        "a byte": (edited(f"divergence=kl{ARM}/{metrics}", flipped), f"{metrics} was changed"),
        "a table": (edited("tables/cost.md", flipped), "archive/tables/cost.md was changed"),
        "a file is gone": (without("eval/step_000004.jsonl"), "eval/step_000004.jsonl is missing"),
        "a file more": (added("sweep/extra.txt"), "extra.txt is not listed"),
        "traversal": (added("sweep/../../evil.txt"), "../../evil.txt: leads out of the archive's folder"),
        "absolute": (added("/tmp/evil.txt"), "/tmp/evil.txt: leads out"),
        "a link": (added("sweep/link", tarfile.SYMTYPE), "sweep/link: is no plain file"),
        "twice": (added(f"sweep/{CONTENTS}"), "stands in the archive twice"),
        "beside": (added("other/file.txt"), "several folders (sweep, other)"),
        "no folder": (added("file.txt"), "does not lie in the archive's folder"),
        "the list": (edited(CONTENTS, newer), "its own sha256"),
        "no list": (without(CONTENTS), "archive.json is missing"),
    }  # fmt: skip
    for what, (change, fault) in cases.items():
        lines, holds = verify(rewritten(packed, tmp_path / "changed.tar.gz", change))
        named = [line for line in lines if line.startswith("FAULT ") and fault in line]
        assert named and not holds, (what, lines)
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/tmp/evil.txt").exists()


def newer(content: bytes) -> bytes:
    return content.replace(b'"format": 1', b'"format": 2')


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def test_a_damaged_file_and_one_that_is_none_are_named(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    for name, damaged in (
        ("cut.tar.gz", content[: len(content) // 2]),
        ("flipped.tar.gz", content[:-4000] + bytes([content[-4000] ^ 1]) + content[-3999:]),
    ):
        (tmp_path / name).write_bytes(damaged)
        lines, holds = verify(tmp_path / name)
        assert not holds and any(name in line and "is damaged" in line for line in lines), (name, lines)
    (tmp_path / "none.tar.gz").write_bytes(b"no archive at all")
    with pytest.raises(ValueError, match=r"none\.tar\.gz: no archive of a sweep"):
        verify(tmp_path / "none.tar.gz")
    with pytest.raises(ValueError, match="there is no such file"):
        verify(tmp_path / "nowhere.tar.gz")


@pytest.mark.slow
def test_a_table_that_does_not_follow_from_its_runs_is_named_though_all_digests_fit(
    packed: Path, tmp_path: Path
) -> None:
    def forge(read: Members) -> None:
        edited("tables/cost.md", lambda text: text.replace(b"Cost by arm", b"Cost by hand"))(read)
        table = next(content for member, content in read if member.name.endswith("tables/cost.md"))

        def relisted(text: bytes) -> bytes:
            contents = json.loads(text)
            contents["files"]["archive/tables/cost.md"]["sha256"] = hashlib.sha256(table).hexdigest()
            return json.dumps(sealed(contents)).encode()

        edited(CONTENTS, relisted)(read)

    lines, holds = verify(rewritten(packed, tmp_path / "forged.tar.gz", forge))
    (fault,) = [line for line in lines if line.startswith("FAULT")]
    assert not holds and "cost.md: is another table" in fault and "Cost by hand" in fault


def test_a_run_of_other_code_is_not_run_again_and_it_is_said_why(sweep: Sweep, tmp_path: Path) -> None:
    lines, same = rerun(sweep.root, 1, tmp_path)
    assert not same and lines[0].startswith("NOT RUN AGAIN ") and " there, " in lines[0]
    assert "check out commit c0ffee" in lines[0] and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"--rerun 5: the archive has the runs 1 algo="):
        rerun(sweep.root, 5, tmp_path)
    rows = [b'{"step": 1, "a": 1.0, "b": 2.0}\n', b'{"step": 2, "a": 1.0}\n']
    other = [rows[0], b'{"step": 2, "a": 1.5}\n']
    assert _first_difference(b"".join(rows), b"".join(other)) == "a of step 2 was 1.0, is 1.5"
    assert _first_difference(b"".join(rows), rows[0]) == "fewer rows, from line 2"
    for name, content, device in (("there", rows, "cuda"), ("here", other, "cpu")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_bytes(b"".join(content))
        (tmp_path / name / "manifest.json").write_text(json.dumps({"device": device}))
    lines, same = _compared(tmp_path / "there", tmp_path / "here", "cell")
    assert not same and lines[0].endswith("has another metrics.jsonl: a of step 2 was 1.0, is 1.5")
    assert lines[1] == "It ran elsewhere: device cuda there, cpu here"
    assert _compared(tmp_path / "here", tmp_path / "here", "cell")[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_on_a_sweep_that_was_really_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = (*SMALL, "steps=1", "eval_questions=2", "eval_sampled_questions=0", "drift_questions=2")
    small = (*small, "prompts_per_step=1", "group_size=2", "max_new_tokens=12", "eval_max_new_tokens=12")
    grid = (
        "sweep=tiny_credit",
        "weighting=uniform,counterfactual",
        "seed=0",
        *small,
        f"out={tmp_path / 'out'}",
    )
    succeeded(train(*grid, cwd=tmp_path), said=["2 cells"])
    root, allowed = tmp_path / "out" / "tiny_credit", ("--allow", "dirty")

    def analysis(*arguments: Any) -> tuple[str, int]:
        monkeypatch.setattr(sys, "argv", ["analysis", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as error:
            status = int(error.code or 0) if not isinstance(error.code, str) else 1
        return capsys.readouterr().out, status

    text, _ = analysis("checklist", root, *allowed)
    assert "math_answer/" in text and "counterfactual: 0; uniform: 0" in text
    packed = tmp_path / "packed.tar.zst"
    text, status = analysis("archive", root, "--to", packed, *allowed)
    assert status == 0 and "of 2 runs" in text
    text, status = analysis("verify", packed, "--rerun", 1)
    assert status == 0 and "metrics.jsonl is the same, byte for byte" in text, text
    assert manifest(folders(root)[0])["command"][0] == str(ROOT / "train.py")
