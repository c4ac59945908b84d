"""For all tests."""

import logging

# What ends after the last test (Salt's daemons and threads) logs to handlers that pytest has closed: harmless, and it
# would hide pytest's last lines.
logging.raiseExceptions = False
