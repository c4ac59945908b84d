"""One slow job at a time, in a thread of its own, so that the loop goes on renewing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from chefha_core.leaderl.memory import Memory

log = logging.getLogger(__name__)


#: seconds before a job that failed is tried again
PAUSE = 0.5


class Worker:
    """Runs jobs; ``look`` makes the monitor look at PostgreSQL at once, so that no round plans on what was before."""

    def __init__(self, memory: Memory, look: Callable[[], object]) -> None:
        self.memory, self.look = memory, look
        self._emergency: threading.Thread | None = None
        self._failed = ("", 0.0)

    def begin(self, name: str, reason: str, job: Callable[[], None]) -> None:
        """Start ``job`` unless one is running, or this one has just failed."""
        if self.memory.job or (self._failed[0] == name and time.monotonic() < self._failed[1] + PAUSE):
            return
        self.memory.job = name
        log.info("%s: %s", name, reason)
        threading.Thread(target=self._run, args=(name, reason, job), name=f"chefha-{name}", daemon=True).start()

    def _run(self, name: str, reason: str, job: Callable[[], None]) -> None:
        begun, outcome = time.monotonic(), "done"
        try:
            job()
        except Exception as error:  # a job's failure is a fact for the next round, whatever it is
            outcome = str(error) or type(error).__name__
            self._failed = (name, time.monotonic())
            log.warning("%s failed: %s", name, outcome, exc_info=not str(error))
        finally:
            seconds = time.monotonic() - begun
            self.memory.note(name, reason, seconds, outcome)
            log.info("%s: %s after %.3f s", name, outcome, seconds)
            try:
                self.look()
            finally:
                self.memory.job = ""
                self.memory.bell.set()

    def emergency(self, job: Callable[[], None]) -> None:
        """Run ``job`` now, beside whatever else runs; not twice at once."""
        if self._emergency is not None and self._emergency.is_alive():
            return
        self._emergency = threading.Thread(target=self._quietly, args=(job, True), name="chefha-emergency", daemon=True)
        self._emergency.start()

    def aside(self, job: Callable[[], None]) -> None:
        """Run ``job`` beside the present one; its failure only goes to the log."""
        threading.Thread(target=self._quietly, args=(job, False), name="chefha-aside", daemon=True).start()

    def _quietly(self, job: Callable[[], None], look: bool) -> None:
        try:
            job()
        except Exception as error:
            log.warning("%s", error)
        if look:
            self.look()
            self.memory.bell.set()
