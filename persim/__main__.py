"""``python -m persim`` is the command ``persim``."""

import sys

from persim.cli import script

sys.exit(script())
