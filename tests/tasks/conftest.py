"""The slow engine lies beside these tests, and under --import-mode=importlib their folder is not on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
