"""``python -m chefha_core.cli``."""

import sys

from chefha_core.cli import main

sys.exit(main())
