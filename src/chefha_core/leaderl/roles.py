"""PostgreSQL's passwords follow the settings: when leaderl starts, and in the database when a node begins to lead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from chefha_core.parts.postgres import Postgres, PostgresError

log = logging.getLogger(__name__)

#: seconds until what failed is tried again
PAUSE = 5.0


class Roles:
    """Looks after the password file, and after chefha's roles where this node leads; each once for its leadership.

    leaderl is restarted when its settings have changed, so its start is when there may be new passwords.
    """

    def __init__(self, postgres: Postgres, aside: Callable[[Callable[[], None]], None]) -> None:
        self._postgres, self._aside = postgres, aside
        self._begun, self._not_before = 0, 0.0

    def started(self) -> None:
        """This node's followers' side: what streams goes on, the next connection takes the new password."""
        self._aside(self._postgres.write_pgpass)

    def leading(self, epoch: int) -> None:
        """To be called again and again as long as this node leads; does its work beside the caller."""
        if epoch == self._begun or time.monotonic() < self._not_before:
            return
        self._begun = epoch
        self._aside(self._renew)

    def _renew(self) -> None:
        try:
            for name in self._postgres.renew_roles():
                log.info("role %s has the password and rights of the settings now", name)
        except PostgresError as error:
            self._begun, self._not_before = 0, time.monotonic() + PAUSE
            raise PostgresError(f"passwords in the database are not checked yet: {error}") from None
