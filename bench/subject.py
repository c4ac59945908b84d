"""The product that is measured, as far as a run needs to know it.

Every scenario goes over all subjects, each behind the same VIP on the same machines with the same probe at the same
time of day, and each row of the table says whose it is. Numbers from elsewhere have no place here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from lab.api import Lab, LabError
from lab.topology import BACKENDS, BY_NAME, MASTER
from lab.witness import Witness, others

PYTHON = "/opt/saltstack/salt/bin/python"
HAND_OVER_TIMEOUT = 60.0
# The verb's own time, past Salt's and Python's start: what a user waits for on top of `salt NODE test.ping`.
STATUS_PROGRAM = """
import json, sys, time
from chefha_core.settings import load
from chefha_core.verbs.cluster_status import cluster_status
settings, seconds = load(), []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    cluster_status(settings, sys.argv[1])
    seconds.append(round(time.perf_counter() - began, 4))
print(json.dumps(seconds))
"""


class Subject(Protocol):
    """What a run asks of the product."""

    name: str

    def begin(self) -> None:
        """Work on the lab's machines from now on; nothing to do is success."""

    def end(self) -> None:
        """Leave the machines to chefha, which they belong to."""

    def await_whole(self, timeout: float) -> float:
        """Wait until all three nodes are well; the seconds it took. LabError if they do not become so."""

    def leader(self) -> str:
        """Who leads; LabError unless it is exactly one."""

    def hand_over(self, to: str) -> Mapping[str, Any]:
        """Carry out a planned hand-over; whatever the product says about it. LabError if it did not come about."""

    def await_new_leader(self, old: str, timeout: float) -> str:
        """Wait until another one than `old` leads behind the VIP; its name."""

    def notes(self, leader: str) -> Mapping[str, Any]:
        """What the product itself tells about its last change of leader, kept with the run's numbers."""

    def versions(self) -> Mapping[str, Any]:
        """What is installed, and how it is set up as far as it bears on the numbers."""


class Chefha:
    """chefha in the lab."""

    name = "chefha"

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._witness = Witness(lab.machines)

    def begin(self) -> None:
        """The lab runs chefha unless another subject has begun."""

    def end(self) -> None:
        """It stays."""

    def await_whole(self, timeout: float) -> float:
        return self._witness.await_converged(timeout)

    def leader(self) -> str:
        return self._witness.leader()

    def hand_over(self, to: str) -> Mapping[str, Any]:
        asked_on = others(to)[0]
        answer = self._lab.salt(asked_on, "chefha.promote", to, timeout=HAND_OVER_TIMEOUT).get(asked_on)
        if not isinstance(answer, dict):
            raise LabError(f"no hand-over to {to}: {answer}")
        return answer

    def await_new_leader(self, old: str, timeout: float) -> str:
        return self._witness.await_new_leader(old, timeout)

    def notes(self, leader: str) -> Mapping[str, Any]:
        code, text = self._lab.exec(leader, "curl -s --max-time 2 http://127.0.0.1:7331/status")
        status = _loads(text) if code == 0 else {}
        return {key: status.get(key) for key in ("epoch", "steps", "reason")}

    def status_seconds(self, node: str, times: int) -> list[float]:
        """How long cluster_status takes on a node, that many times."""
        command = [PYTHON, "-c", STATUS_PROGRAM, node, str(times)]
        seconds: list[float] = _loads(self._lab.machines.check(BY_NAME[node], command, 60 + 3 * times))
        return seconds

    def versions(self) -> Mapping[str, Any]:
        node = BACKENDS[0].name
        said = self._lab.salt(node, "chefha.version")[node]
        settings = self._lab.salt(node, "chefha.settings_check")[node]
        kept = ("profile", "durability", "leaderl")
        shown = {key: settings.get(key) for key in kept} if isinstance(settings, dict) else str(settings)
        master = self._lab.exec(MASTER.name, ["salt", "--version"])[1].strip()
        return {"installed": said, "settings": shown, "master": master}


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise LabError(f"expected JSON, found: {text[:200]}") from error
