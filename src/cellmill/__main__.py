"""``python -m cellmill``."""

import sys

from cellmill.cli import main

sys.exit(main())
