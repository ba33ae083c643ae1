"""`python -m mirrorpo COMMAND`."""

import sys

from mirrorpo.cli import main

sys.exit(main())
