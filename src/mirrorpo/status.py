"""`python -m mirrorpo.status SWEEP`: where each cell of a sweep is. Imports no torch."""

import sys

from mirrorpo.launch.status import main

if __name__ == "__main__":
    sys.exit(main())
