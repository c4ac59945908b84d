"""No password, token or private key stands where somebody may read it by chance: each is looked for, everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lab.api import Lab
from lab.topology import BACKENDS, MASTER
from tests.lab.bring_up import APPLY_TIMEOUT, BringUp

#: where the master keeps the cluster's secrets, and where a node has its own
STORE = "/etc/salt/chefha/lab"
PATTERNS = "/root/lab-patterns"
#: logs, the master's job cache, the journal, and what every process shows of itself
PLACES = {
    "log files": "grep -rlaF -f {patterns} /var/log --exclude-dir=journal",
    "the job cache": "grep -rlaF -f {patterns} /var/cache/salt/master/jobs",
    "the journal": "journalctl -q --no-pager -o cat | grep -cF -f {patterns} | grep -v '^0$'",
    "the process list": "grep -laF -f {patterns} /proc/[0-9]*/cmdline",
    "files that everybody may read": (
        "find /etc /var/lib/chefha /opt/chefha-search /run /tmp /root /srv -xdev -type f -perm /o+r -print0 "
        "2>/dev/null | xargs -0 -r grep -laF -f {patterns} --"
    ),
}


def secrets_of(lab: Lab) -> dict[str, str]:
    """Every secret of the lab's cluster by its name; of a private key a line from its middle."""
    found: dict[str, str] = {}
    for node in BACKENDS:
        code, text = lab.exec(node.name, ["cat", "/etc/chefha/settings.json"])
        assert code == 0, text
        settings = json.loads(text)
        found |= {name: value for name, value in settings["secrets"].items() if value}
        found[f"key of {node.name}"] = lab.exec(node.name, ["sed", "-n", "3p", "/etc/chefha/tls/server.key"])[1].strip()
    code, text = lab.exec(MASTER.name, f"cat {STORE}/authority-*.key")
    assert code == 0, text
    found["key of the authority"] = text.splitlines()[2]
    return found


def test_no_secret_stands_in_logs_job_cache_journal_process_lists_or_open_files(lab: Lab) -> None:
    """Each secret is looked for on each machine, while everything runs."""
    secrets = secrets_of(lab)
    assert len(secrets) >= 10
    leaks = []
    for machine in lab.stack.nodes:
        lab.machines.write(machine, {PATTERNS: "\n".join(secrets.values()) + "\n"}, mode=0o600)
        for what, command in PLACES.items():
            _, out = lab.exec(machine.name, command.format(patterns=PATTERNS) + " 2>/dev/null", 120)
            if out.strip():
                leaks.append(f"{machine.name}: {what}: {out.strip()[:300]}")
        lab.exec(machine.name, ["rm", "-f", PATTERNS])
    assert not leaks, "\n".join(leaks)


def test_no_secret_stands_in_what_states_and_functions_answer(lab: Lab, bring_up: BringUp) -> None:
    """Neither in the answers of the first highstate, test mode included, nor of the functions that show settings."""
    answers: dict[str, Mapping[str, Any]] = {
        "state.apply test=True": bring_up.promised,
        "state.apply": bring_up.came_true,
        "a second state.apply": lab.salt("*", "state.apply", timeout=APPLY_TIMEOUT),
        "chefha.validate_pillar": lab.salt("be*", "chefha.validate_pillar"),
        "chefha.status": lab.salt("be*", "chefha.status"),
        "chefha.cluster_status": lab.salt("be*", "chefha.cluster_status"),
    }
    for what, answer in answers.items():
        text = json.dumps(answer)
        shown = [name for name, value in secrets_of(lab).items() if value in text]
        assert not shown, f"{what} shows {', '.join(shown)}"
