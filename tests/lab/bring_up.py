"""From nothing to a cluster, noting on the way what test mode promised and what then came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.api import Lab, Stack
from lab.witness import Seen, Witness
from tests.lab.secrecy import Secrets

APPLY_TIMEOUT = 600.0
#: what a state could change on a machine: files of ours and of packages, packages, the library in Salt's Python, units
#: (_schedule.conf is the minion's own: it writes it when it connects)
FINGERPRINT = """
{
    find /etc /usr/local -xdev -not -type d -not -path '/etc/salt/pki/*' -not -path '/etc/salt/chefha/*' \\
        -not -name _schedule.conf \\
        -printf '%p %s %m %u %l\\n'
    find /var/lib/chefha -maxdepth 2 -not -type d -printf '%p %s %m %u %l\\n'
    dpkg-query -W
    ls /opt/saltstack/salt/lib/python*/site-packages
    systemctl list-units --plain --no-legend 'chefha*'
} 2>/dev/null | sort | sha256sum
"""


@dataclass(frozen=True)
class BringUp:
    """By minion: answers to state.apply, and fingerprints of the machines before and after test mode; what the back
    ends were like when it was done, and where secrets stood then."""

    promised: Mapping[str, Any]
    came_true: Mapping[str, Any]
    before_test: Mapping[str, str]
    after_test: Mapping[str, str]
    found: Sequence[Seen]
    leaks: Sequence[str]


def from_nothing(lab: Lab, stack: Stack, secrets: Secrets) -> BringUp:
    """A bare lab, the highstate in test mode, then the real one. The secrets that were made on the way are noted."""
    lab.up(stack, until="project")
    before = fingerprints(lab)
    promised = lab.highstate_test()
    after = fingerprints(lab)
    lab.up(stack)
    found = Witness(lab.machines).look()
    secrets.note(lab)
    return BringUp(promised, dict(lab.applied), before, after, found, secrets.leaks(lab))


def minions(lab: Lab) -> list[str]:
    """The machines that states are applied to."""
    return [node.name for node in lab.stack.minions]


def fingerprints(lab: Lab) -> dict[str, str]:
    """A hash per machine of everything that states may change."""
    return {name: lab.exec(name, FINGERPRINT)[1].strip() for name in minions(lab)}


def states(answer: Any) -> dict[str, Mapping[str, Any]]:
    """One minion's answer to state.apply by the state's id; an answer without states fails the test."""
    assert isinstance(answer, Mapping), f"no states were run: {answer}"
    return {f"{row.get('__id__', key)} ({key.split('_|-')[0]})": row for key, row in answer.items()}


def would_change(answer: Any) -> set[str]:
    """The states that test mode announced: their result is None."""
    return {name for name, row in states(answer).items() if row["result"] is None}


def did_change(answer: Any) -> set[str]:
    """The states that changed something."""
    return {name for name, row in states(answer).items() if row["changes"]}


def failed(answer: Any) -> dict[str, str]:
    """The states that failed, and what they said."""
    return {name: str(row["comment"]) for name, row in states(answer).items() if row["result"] is False}
