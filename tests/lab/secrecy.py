"""Every secret that a lab has or had, by its name, and the places where somebody may read one by chance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lab.api import Lab
from lab.stack import BIND_PASSWORD
from lab.topology import BACKENDS, FRONTENDS, MASTER

#: where the master keeps the cluster's secrets, and a front end those that Chef makes (its users' keys among them)
STORE = "/etc/salt/chefha/lab"
CHEFS = "/etc/opscode/private-chef-secrets.json"
PATTERNS = "/root/lab-patterns"
#: seconds for one place of one machine
PATIENCE = 180.0
#: logs, the master's job cache, the journal, and what every process shows of itself
PLACES = {
    "log files": "grep -rlaF -f {patterns} /var/log --exclude-dir=journal",
    "the job cache": "grep -rlaF -f {patterns} /var/cache/salt/master/jobs",
    "the journal": "journalctl -q --no-pager -o cat | grep -cF -f {patterns} | grep -v '^0$'",
    "the process list": "grep -laF -f {patterns} /proc/[0-9]*/cmdline",
    "files that everybody may read": (
        "find /etc /var/lib/chefha /opt/chefha-search /run /tmp /root /srv /var/cache /var/opt /var/log -xdev -type f "
        "-perm /o+r -print0 2>/dev/null | xargs -0 -r grep -laF -f {patterns} --"
    ),
}


class Secrets:
    """All that were noted since the lab came up. What a rotation has replaced stays: an old log may have it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._names)

    def note(self, lab: Lab) -> None:
        """Add those of now."""
        self._names |= {value: name for name, value in secrets_of(lab).items()}

    def shown_in(self, answer: Any) -> list[str]:
        """Names of those that an answer holds."""
        text = json.dumps(answer)
        return [name for value, name in self._names.items() if value in text]

    def leaks(self, lab: Lab) -> list[str]:
        """Where they stand though they must not, a line per machine and place."""
        found = []
        for machine in lab.stack.nodes:
            lab.machines.write(machine, {PATTERNS: "".join(f"{value}\n" for value in self._names)}, mode=0o600)
            for what, command in PLACES.items():
                code, out = lab.exec(machine.name, f"( {command.format(patterns=PATTERNS)} ) 2>/dev/null", PATIENCE)
                assert code != 124, f"{machine.name}: {what}: not searched within {PATIENCE:g} s"
                if out.strip():
                    found.append(f"{machine.name}: {what}: {out.strip()[:300]}")
            lab.exec(machine.name, ["rm", "-f", PATTERNS])
        return found


def secrets_of(lab: Lab) -> dict[str, str]:
    """Every secret that the lab's cluster has now, by its name; of a private key a line from its middle."""
    found: dict[str, str] = {}
    for node in BACKENDS:
        settings = json.loads(read(lab, node.name, "/etc/chefha/settings.json"))
        found |= {name: value for name, value in settings["secrets"].items() if value}
        found[f"key of {node.name}"] = middle(read(lab, node.name, "/etc/chefha/tls/server.key"))
        found["key of etcd's tokens"] = read(lab, node.name, "/etc/chefha/etcd-token.key").strip()
    keys = read(lab, MASTER.name, f"{STORE}/authority-*.key").split("-----BEGIN ")[1:]
    found |= {f"key of authority {number}": middle(key) for number, key in enumerate(keys)}  # two while one goes
    if lab.stack.frontends:
        found |= dict(_texts("Chef's", json.loads(read(lab, FRONTENDS[0].name, CHEFS))))
        found["ldap['bind_password']"] = BIND_PASSWORD
    assert all(len(value) >= 16 for value in found.values()), "a text as short as that would be found by chance"
    return found


def middle(key: str) -> str:
    """A line of a private key that is its own: the first one begins alike in all of them."""
    return key.splitlines()[2].strip()


def read(lab: Lab, node: str, path: str) -> str:
    """What a file, or several, of a machine hold."""
    code, text = lab.exec(node, f"cat {path}")
    assert code == 0, text
    return text


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(f"{name} {key}", item)
    elif isinstance(value, str):
        yield name, value
