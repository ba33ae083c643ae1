"""What a GPU does with this project: whether it is right, and how fast; a table with a bound a line.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --only drift correct

No network, no files but this clone's: models are made of random weights. benchmarks/README.md says what a
machine without the package's environment needs. The exit status is 1 where something is not right.
"""

import os
import sys
from pathlib import Path

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Without an installation: this clone's package, and what lies beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
