"""`python -m mirrorpo.explain OVERRIDES`: the loss of a cell as an equation, and what acts in it."""

import sys

from mirrorpo.launch.explain import main

if __name__ == "__main__":
    sys.exit(main())
