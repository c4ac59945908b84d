"""``python -m chefha_core.leaderl``."""

import sys

from chefha_core.leaderl.main import main

sys.exit(main())
