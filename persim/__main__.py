"""``python -m persim``."""

import sys

from persim import console
from persim.cli import main

sys.exit(console.run(main))
