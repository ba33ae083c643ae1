"""What pyproject.toml cannot say: the folders beside src/ that a wheel holds too."""

import json
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, "src")

from mirrorpo.run.provenance import SNAPSHOT, taken_from

# From the repository's root to the wheel's. A mapping in `package-dir` would do it too, but then an editable
# install puts an import hook in place of src/, and Hydra finds no plug-in by scanning.
FOLDERS = {"conf": "mirrorpo/conf", "sweeps": "mirrorpo/sweeps", "analysis": "analysis"}


class BuildWithFolders(build_py):
    """`build_py`, and the folders above; an editable install reads them where they are."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            for source in self._beside():
                target = Path(self.build_lib, FOLDERS[source.parts[0]], *source.parts[1:])
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))
            # A run of the installed package names the commit too.
            commit = json.dumps(taken_from(Path.cwd())) + "\n"
            Path(self.build_lib, "mirrorpo", SNAPSHOT).write_text(commit)

    def get_source_files(self) -> list[str]:
        """What a source distribution holds."""
        return [*super().get_source_files(), *map(str, self._beside()), "train.py"]

    def _beside(self) -> list[Path]:
        return sorted(
            path
            for folder in FOLDERS
            for ending in ("py", "yaml", "js")
            for path in Path(folder).rglob(f"*.{ending}")
        )


setup(cmdclass={"build_py": BuildWithFolders})
