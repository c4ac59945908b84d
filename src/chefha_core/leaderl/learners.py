"""etcd's learners get their vote. A member that joins the only one left begins without: with it, a quorum would need
both, and a newcomer that never starts would cost it. The leader's leaderl gives it the vote once it has caught up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from chefha_core.parts.etcd import EtcdError, EtcdMember
from chefha_core.parts.etcd_access import ROOT
from chefha_core.parts.etcd_members import promote_learner
from chefha_core.settings import Settings
from chefha_core.verbs.reach import etcd_client

log = logging.getLogger(__name__)

#: seconds between two looks, and for one question
PAUSE, DEADLINE = 5.0, 3.0


class Learners:
    """Looks for learners; to be called again and again by whoever leads."""

    def __init__(self, settings: Settings, name: str, aside: Callable[[Callable[[], None]], None]) -> None:
        self._settings, self._name, self._aside = settings, name, aside
        self._not_before = 0.0

    def leading(self) -> None:
        """Look, beside the caller, if it is time."""
        if self._settings.etcd_endpoints or time.monotonic() < self._not_before:
            return
        self._not_before = time.monotonic() + PAUSE
        self._aside(self._look)

    def _look(self) -> None:
        client = etcd_client(self._settings, self._name, DEADLINE)
        try:
            learners = [member for member in client.members() if member.learner]
        except EtcdError:
            return  # the loop says so
        finally:
            client.close()
        if learners:
            self._promote(learners[0])

    def _promote(self, learner: EtcdMember) -> None:
        password = self._settings.secrets.etcd_root_password
        client = etcd_client(self._settings, self._name, DEADLINE, user=ROOT, password=password)
        try:
            promote_learner(client, learner.id_hex)
            log.info("etcd's member %s has caught up and has a vote now", learner.name or learner.id_hex)
        except EtcdError as error:
            log.info("etcd's member %s has no vote yet: %s", learner.name or learner.id_hex, error)
        finally:
            client.close()
