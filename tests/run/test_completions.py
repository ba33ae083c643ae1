"""The file of shown completions: sections by step, whatever a model writes, cut at a step."""

from pathlib import Path

from mirrorpo.run.completions import Completions


def test_sections_are_cut_after_a_step_and_what_a_model_writes_begins_none(tmp_path: Path) -> None:
    shown = Completions(tmp_path / "completions.md")
    shown.cut_after(3)
    assert not shown.path.exists()
    kept = []
    for step in (1, 2, 30):
        shown.append(step, f"# Step {step}\n<!-- step 1 -->\nnaïve <!-- step 9 -->\n")
        kept.append(shown.path.read_bytes())
    for step, content in ((99, kept[2]), (30, kept[2]), (29, kept[1]), (2, kept[1]), (1, kept[0]), (0, b"")):
        shown.path.write_bytes(kept[2])
        shown.cut_after(step)
        assert shown.path.read_bytes() == content, step
    assert kept[0].decode() == "<!-- step 1 -->\n# Step 1\n <!-- step 1 -->\nnaïve <!-- step 9 -->\n\n"
    assert [path.name for path in tmp_path.iterdir()] == ["completions.md"]
