"""Salt as the lab uses it: on the master, over its own command line, answers as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .nodes import Machines
from .progress import LabError, tail
from .topology import MASTER, Node

PENDING = "/etc/salt/pki/master/minions_pre"
ACCEPTED = "/etc/salt/pki/master/minions"
KEYS_TIMEOUT = 120.0
PING_TIMEOUT = 120.0
APPLY_TIMEOUT = 900
ASK_AGAIN = 30
# chefha's states restart a master for a new reactor by this unit, once no job is under way.
RESTART_UNIT = "chefha-restart-master.service"
RESTART_TIMEOUT = 120.0
UNDER_WAY = ("active", "activating", "deactivating")
LOG_LINES = 20


class Salt:
    """Keys, functions and states through the lab's master, which has these `minions`."""

    def __init__(self, machines: Machines, minions: Sequence[Node]) -> None:
        self._machines = machines
        self._minions = minions

    def call(self, args: Sequence[str], timeout: float = 60) -> dict[str, Any]:
        """Run `salt ARGS` on the master; return what each minion answered, for at most `timeout` seconds.

        A function that failed is an answer too. LabError if there is no answer that can be read.
        """
        # Not --static: that stops at Salt's own time-out. Without it that is how often Salt asks whether the job still
        # runs: it can be short, and an answer that got lost (the master was restarted) costs no more than that.
        patience = str(max(1, min(ASK_AGAIN, int(timeout) - 5)))
        command = ["salt", "--out=json", "-t", patience, *args]
        ran = self._machines.run(MASTER, command, timeout + 10)
        answer = parse(ran.out)
        if answer is None:
            raise LabError(f"salt {' '.join(args)} ended with {ran.rc} and no answer\n{tail(ran.text)}")
        return answer

    def forget_key(self, node: Node) -> None:
        """Delete a minion's key: the machine that had it is gone."""
        self._machines.check(MASTER, ["salt-key", "-y", "-d", node.name])

    def restart_master(self) -> None:
        """Restart the master, and wait until every minion answers through it."""
        self._machines.check(MASTER, ["systemctl", "restart", "salt-master.service"], RESTART_TIMEOUT)
        self.await_minions()

    def accept_keys(self) -> None:
        """Accept the key of each of the lab's own minions as they ask, and no other's."""
        wanted = {node.name for node in self._minions}
        deadline = time.monotonic() + KEYS_TIMEOUT
        while missing := wanted - self._names(ACCEPTED):
            for name in sorted(missing & self._names(PENDING)):
                self._machines.check(MASTER, ["salt-key", "-y", "-a", name])
            if time.monotonic() > deadline:
                raise LabError(f"no key came from {', '.join(sorted(missing))}\n{self._log(MASTER, 'salt-master')}")
            time.sleep(0.3)

    def await_minions(self) -> None:
        """Wait until every minion answers `test.ping`; LabError with a silent minion's log."""
        deadline = time.monotonic() + PING_TIMEOUT
        # A ping that misses one minion takes 15 s: don't ask before all have come to the publisher's port.
        while not self._connected() and time.monotonic() < deadline:
            time.sleep(0.3)
        while True:
            ran = self._machines.run(MASTER, ["salt", "--out=json", "--static", "-t", "5", "*", "test.ping"], 40)
            answers = parse(ran.out) or {}
            silent = [node for node in self._minions if answers.get(node.name) is not True]
            if not silent:
                return
            if time.monotonic() > deadline:
                names = ", ".join(node.name for node in silent)
                raise LabError(f"no answer to test.ping from {names}\n{self._log(silent[0], 'salt-minion')}")
            time.sleep(0.5)

    def apply(self, target: str, *more: str) -> dict[str, Any]:
        """Run the highstate of the target; the answers. LabError says which state of which node failed, and how.

        A minion that gave no answer at all is asked once more: an answer gets lost where the master restarts.
        """
        expected = [node.name for node in self._minions] if target == "*" else [target]
        answers = self.call([target, "state.apply", *more], APPLY_TIMEOUT)
        if silent := [failure.minion for failure in failures(answers, expected) if failure.silent]:
            self.await_minions()
            answers |= self.call(["-L", ",".join(silent), "state.apply", *more], APPLY_TIMEOUT)
        if failed := failures(answers, expected):
            raise LabError("\n".join(failure.words for failure in failed))
        return answers

    def master_configuration(self) -> str:
        """A hash of the master's configuration files: when it changes, the master needs a restart."""
        script = "find /etc/salt/master /etc/salt/master.d -type f 2>/dev/null | sort | xargs -r sha256sum | sha256sum"
        return self._machines.check(MASTER, ["sh", "-c", script])

    def master_process(self) -> str:
        """Number of the master's main process."""
        return self._machines.check(MASTER, ["systemctl", "show", "-P", "MainPID", "salt-master.service"]).strip()

    def settle_master(self, process: str) -> None:
        """See to it that the master runs with a new configuration, and that every minion answers through it.

        `process` is the main process that read the old one. The states restart it by themselves, after their job: a
        job sent out before that loses its answers, so that is waited for.
        """
        deadline = time.monotonic() + RESTART_TIMEOUT
        while self._machines.run(MASTER, ["systemctl", "is-active", RESTART_UNIT], 10).out.strip() in UNDER_WAY:
            if time.monotonic() > deadline:
                raise LabError(f"{RESTART_UNIT} is not done after {RESTART_TIMEOUT:.0f} s")
            time.sleep(0.3)
        if self.master_process() == process:
            self.restart_master()
        else:
            self.await_minions()

    def _connected(self) -> bool:
        """Whether each minion has a connection to the master's port 4505."""
        peers = self._machines.run(MASTER, ["ss", "-Htn", "state", "established", "sport = :4505"], 10).out
        far_ends = _last_columns(peers)
        return all(f"{node.address}:" in far_ends for node in self._minions)

    def _names(self, folder: str) -> set[str]:
        return set(self._machines.run(MASTER, ["ls", folder], 10).out.split())

    def _log(self, node: Node, unit: str) -> str:
        command = ["sh", "-c", f"tail -n {LOG_LINES} /var/log/salt/{unit.removeprefix('salt-')}; "
                   f"journalctl -q --no-pager -n {LOG_LINES} -u {unit}"]  # fmt: skip
        return f"  log of {unit} on {node.name}:\n{tail(self._machines.run(node, command, 20).text, 2 * LOG_LINES)}"


def _last_columns(table: str) -> str:
    """The last column (the far end) of each line of ss."""
    return " ".join(line.split()[-1] for line in table.splitlines() if line.strip())


def parse(text: str) -> dict[str, Any] | None:
    """The JSON objects in Salt's output, one per minion, as one; there may be warnings between. None: there is none."""
    decoder = json.JSONDecoder()
    found: dict[str, Any] | None = None
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
            found = {**(found or {}), **value}
        except ValueError:
            end = start + 1
        start = text.find("{", end)
    return found


@dataclass(frozen=True)
class Failure:
    """What went wrong in a minion's answer to a state.apply; `silent`: there was none."""

    minion: str
    silent: bool
    words: str


def failures(answers: Mapping[str, Any], expected: Sequence[str]) -> list[Failure]:
    """What went wrong. No answer is a failure too, and so is one without a single state."""
    found = [Failure(name, True, f"{name}: no answer") for name in expected if name not in answers]
    for minion, answer in sorted(answers.items()):
        if not isinstance(answer, Mapping) or not answer:
            words = "\n    ".join(map(str, answer)) if isinstance(answer, list) else str(answer)
            silent = not answer or "did not return" in words or "No response" in words
            found.append(Failure(minion, silent, f"{minion}: {words}"))
            continue
        for key, state in answer.items():
            if isinstance(state, Mapping) and state.get("result") is False:
                name = f"{state.get('__sls__', '?')}: {state.get('__id__', key)} ({key.split('_|-')[0]})"
                words = f"{minion}: {name}\n{tail(str(state.get('comment')), 40)}{_output(state)}"
                found.append(Failure(minion, False, words))
    return found


def _output(state: Mapping[str, Any]) -> str:
    """What a failed command printed: Salt puts that into the changes, not into the comment."""
    changes = state.get("changes")
    if not isinstance(changes, Mapping):
        return ""
    printed = "\n".join(str(changes[name]) for name in ("stdout", "stderr") if changes.get(name))
    return f"\n{tail(printed, 20)}" if printed else ""
