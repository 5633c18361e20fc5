"""`python -m rmlab` is `rmlab`."""

import sys

from rmlab.cli import main

sys.exit(main())
