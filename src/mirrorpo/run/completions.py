"""The file of the completions that a run shows, a section a step. Imports no torch."""

import re
from pathlib import Path

from mirrorpo.run.disk import replacing, writing_to

# Before each section. Markdown shows no comments.
MARK = "<!-- step {} -->"
MARKED = re.compile(rb"<!-- step (\d+) -->\n")


class Completions:
    """Markdown that grows by a section a step, cut back to a step when a run resumes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, text: str) -> None:
        """Add the section of a step.

        Raises:
            DiskError: if there is no room for it, or the like.
        """
        # What a model writes begins no section.
        text = re.sub(r"^(?=<!-- step \d+ -->$)", " ", text, flags=re.MULTILINE)
        with writing_to(self.path.parent), self.path.open("a") as file:
            file.write(f"{MARK.format(step)}\n{text.rstrip()}\n\n")

    def cut_after(self, step: int) -> None:
        """Drop the sections of later steps, and a last line that a kill tore."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file, replacing(self.path) as cut:
            for line in file:
                mark = MARKED.fullmatch(line)
                if not line.endswith(b"\n") or (mark and int(mark[1]) > step):
                    break
                cut.write(line)
