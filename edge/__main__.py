"""`python -m edge`: the same as the `edge` script."""

import sys

from edge.cli import main

sys.exit(main())
