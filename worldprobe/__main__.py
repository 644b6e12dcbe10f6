"""`python -m worldprobe`, the same as the command `worldprobe`."""

import sys

from ._cli import main

sys.exit(main())
