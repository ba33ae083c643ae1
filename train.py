"""The entry point in a clone: `mirrorpo train`, with this tree's code and its conf/."""

import sys
from pathlib import Path

from mirrorpo.config import paths
from mirrorpo.launch.train import main

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    if paths.tree() != here:
        sys.exit(
            f"error: {here}/train.py would run the code of {paths.code()}: give that code's command, or "
            f"install this tree's code with `pip install --editable {here}`"
        )
    main()
