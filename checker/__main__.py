"""`python -m checker`: the same as the `checker` script."""

import sys

from checker.cli import main

sys.exit(main())
