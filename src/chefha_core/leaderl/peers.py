"""Direct questions from one leaderl to another, past etcd: do you lead; may I go on leading without etcd.

Signed with the cluster's token both ways (parts/signing.py): a forged yes could make two leaders.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from chefha_core.leaderl.client import Way
from chefha_core.leaderl.memory import Memory
from chefha_core.model import Probe
from chefha_core.parts.signing import ForgedMessage, new_nonce, open_signed, sign
from chefha_core.settings import Settings

log = logging.getLogger(__name__)


class Peers:
    """The other members' leaderl."""

    def __init__(self, settings: Settings, name: str, memory: Memory, deadline: float) -> None:
        self.settings, self.name, self.memory, self.deadline = settings, name, memory, deadline
        self._way = Way.of(settings)
        #: which token each member understood last, while they change over from one to the next
        self._tokens: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="chefha-peer")
        self._asking = threading.Lock()

    def ask_leader(self, leader: str) -> None:
        """Ask ``leader`` in the background whether it leads; ``memory.probe`` gets the answer."""
        if self._asking.acquire(blocking=False):
            self._pool.submit(self._probe, leader)

    def _probe(self, leader: str) -> None:
        try:
            try:
                leads = bool(self._ask(leader, {"question": "leads"}).get("epoch"))
                answer = Probe.LEADS if leads else Probe.DENIES
            except (ForgedMessage, OSError, KeyError) as error:
                log.info("asked %s whether it leads: %s", leader, error)
                answer = Probe.SILENT
            self.memory.probe = (answer, time.monotonic())
            self.memory.bell.set()
        finally:
            self._asking.release()

    def ask_failsafe(self, epoch: int) -> list[str]:
        """Ask every other member at once whether this node may go on leading; who refused, and why."""
        others = [name for name in self.settings.members if name != self.name]
        return [refusal for refusal in self._pool.map(lambda name: self._failsafe(name, epoch), others) if refusal]

    def _failsafe(self, name: str, epoch: int) -> str:
        try:
            answer = self._ask(name, {"question": "failsafe", "leader": self.name, "epoch": epoch})
        except (ForgedMessage, OSError) as error:
            return f"{name} does not answer ({type(error).__name__})"
        return "" if answer.get("agreed") is True else str(answer.get("reason") or f"{name} refuses")

    def _ask(self, name: str, question: dict[str, object]) -> dict[str, object]:
        """The signed answer to a signed question. Who has not changed over to a new token is asked by the old one."""
        until, last = time.monotonic() + self.deadline, self._tokens.get(name)
        status = 403
        for token in sorted(self.settings.secrets.tokens, key=lambda token: token != last):
            nonce = new_nonce()
            left = until - time.monotonic()
            status, raw = self._way.ask(name, "POST", "/ask", left, sign(token, question, nonce=nonce))
            if status == 200:
                self._tokens[name] = token
                return dict(open_signed(token, raw, expected_nonce=nonce))
            if status != 403:
                break
        raise ForgedMessage(f"{name} answered {status}")
