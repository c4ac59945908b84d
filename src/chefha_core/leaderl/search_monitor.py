"""Watches this node's search from a thread of its own, and, where it is the master, how many followers indexes have."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from chefha_core.parts.search import SearchClient, SearchError
from chefha_core.parts.search_followers import ensure_followers
from chefha_core.settings import Settings

log = logging.getLogger(__name__)

INTERVAL = 2.0
DEADLINE = 1.5
#: seconds between two looks at the indexes, and for one question about them
UPKEEP = 10.0
UPKEEP_DEADLINE = 5.0
OFFLINE = "offline"


class SearchMonitor(threading.Thread):
    """``state``: ``master`` or ``not_master`` while this node is in a cluster that has a master, else ``offline``."""

    def __init__(
        self, asked: SearchClient, upkeep: SearchClient, name: str, most: int, on_change: Callable[[], None]
    ) -> None:
        super().__init__(name="chefha-search", daemon=True)
        self.asked, self.upkeep, self.member = asked, upkeep, name
        self.most, self.on_change = most, on_change
        self.state = OFFLINE
        #: why the last look found nothing, "" if it did
        self.problem = "not looked yet"
        self._failures = 0
        self._tended_at = float("-inf")
        self._told = ""

    def run(self) -> None:
        """Looks for ever."""
        while True:
            try:
                self.look()
                if self.state == "master":
                    self.tend()
            except Exception:  # a thread that ends would report for ever what it saw last
                log.exception("a look at search failed")
            time.sleep(INTERVAL)

    def look(self) -> None:
        """Ask once; ``most`` failures in a row make it offline."""
        try:
            master = self.asked.nodes().master
            self.problem = "" if master else "search on this node sees no master"
        except SearchError as error:
            self.problem = str(error)
        if self.problem:
            self._failures += 1
            self._now(OFFLINE if self._failures >= self.most else self.state)
        else:
            self._failures = 0
            self._now("master" if master == self.member else "not_master")

    def _now(self, state: str) -> None:
        if state == self.state:
            return
        why = f": {self.problem}, {self._failures} times in a row" if self.problem else ""
        log.log(logging.WARNING if state == OFFLINE else logging.INFO, "search is %s%s", state, why)
        self.state = state
        self.on_change()

    def tend(self) -> None:
        """The master sees to the followers of each index, now and then."""
        if time.monotonic() < self._tended_at + UPKEEP:
            return
        self._tended_at = time.monotonic()
        try:
            changed, problem = ensure_followers(self.upkeep), ""
        except SearchError as error:
            changed, problem = [], str(error)
        if changed:
            log.info("search: each node holds a copy of %s from now on", ", ".join(changed))
        if problem and problem != self._told:
            log.warning("search: followers per index not checked: %s", problem)
        self._told = problem


def search_monitor(settings: Settings, name: str, on_change: Callable[[], None]) -> SearchMonitor | None:
    """The monitor of the member ``name``; None where there is no search."""
    if settings.search.flavor == "none":
        return None
    address, port = settings.members[name], settings.search.port
    asked, upkeep = SearchClient(address, port, DEADLINE), SearchClient(address, port, UPKEEP_DEADLINE)
    return SearchMonitor(asked, upkeep, name, settings.leaderl.health_check.max_search_failures, on_change)
