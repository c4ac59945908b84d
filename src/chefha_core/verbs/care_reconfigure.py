"""reconfigure: this node's states applied now, and what came of it in a few lines."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from chefha_core.parts.salt_call import HIGHSTATE, SaltFailed, applied, salt_call, well
from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.steps import OnStep, Steps

#: seconds that the master has to take a connection
MASTER_DEADLINE = 5.0
STEP = "the states of this node are applied"
REQUEST_PORT = 4506
#: run by Salt's Python, which is this one
OPTIONS = """
import json, salt.config
options = salt.config.minion_config("/etc/salt/minion")
print(json.dumps({name: options.get(name) for name in ("file_client", "master", "master_port")}))
"""


def master_problem(options: Mapping[str, Any]) -> str:
    """Why this minion's states cannot be had, "" if they can: a master must answer, unless it works without one."""
    if options.get("file_client") == "local":
        return ""
    masters = options.get("master") or "salt"
    named = [str(one) for one in (masters if isinstance(masters, list) else [masters])]
    problems = []
    for master in named:
        host, colon, port = master.rpartition(":") if master.count(":") == 1 else (master, "", "")
        try:
            at = (host or master, int(port) if colon else int(options.get("master_port") or REQUEST_PORT))
            socket.create_connection(at, MASTER_DEADLINE).close()
            return ""
        except (OSError, ValueError) as error:
            problems.append(f"{master}: {error}")
    return (
        f"reconfigure: no master answers ({'; '.join(problems)}), and the states and the pillar are there; nothing was "
        "changed, and what runs goes on running. Start the master, or name another in /etc/salt/minion"
    )


def reconfigure(on_step: OnStep, timeout: float = HIGHSTATE) -> dict[str, Any]:
    """Apply the states by ``salt-call``; what came of it, VerbError with reasons if one failed or no master answers."""
    if problem := master_problem(_minion_options()):
        raise VerbError(problem)
    steps = Steps((STEP,), on_step)
    with steps.step(STEP):
        try:
            return of_salt(salt_call("state.apply", timeout=timeout, meanwhile=lambda: steps.going_on(STEP)))
        except SaltFailed as error:
            raise VerbError(f"reconfigure: {error}") from None


def of_salt(answer: object) -> dict[str, Any]:
    """What ``state.apply`` answered, in short; VerbError with the reasons if a state failed. Pure."""
    try:
        return asdict(well(applied(answer)))
    except SaltFailed as error:
        raise VerbError(f"reconfigure: {error}") from None


def _minion_options() -> dict[str, Any]:
    """What the minion's configuration says of its master. ``salt-call --local`` would always say there is none."""
    try:
        done = subprocess.run([sys.executable, "-c", OPTIONS], capture_output=True, text=True, timeout=60, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except (OSError, ValueError, subprocess.SubprocessError):
        return {"file_client": "local"}  # salt-call itself says what is wrong


def text(done: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"{name}: {why}" for name, why in done["changed"].items()]
    return "\n".join(
        [*lines, f"{done['states']} states are as wanted, {len(done['changed'])} of them changed something"]
    )
