"""`python -m gazeqwen` is the `gazeqwen` command."""

import sys

from gazeqwen.cli import main

sys.exit(main())
