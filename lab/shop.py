"""The small service on the front ends (inside/shop.py): put there by the lab, and a load on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .deploy import PYTHON
from .nodes import Machines
from .probe import login
from .program import INSIDE, Program, put_programs
from .progress import LabError
from .topology import CLIENT, FRONTENDS, VIP, addresses

PROGRAM = "/opt/lab-shop.py"
CONF = "/etc/lab-shop.json"
NAME = "lab-shop.service"
MAX_SECONDS = 300.0
UNIT = f"""\
[Unit]
Description=The lab's shop: objects in PostgreSQL and search, through the VIP
After=network.target

[Service]
ExecStart={PYTHON} {PROGRAM} {CONF}
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


def install(machines: Machines) -> None:
    """Put the service onto both front ends and (re)start it; it has the front ends' own password."""
    user, password = login(machines)
    conf = json.dumps({"vip": VIP, "user": user, "password": password})
    program = (INSIDE / "shop.py").read_bytes()
    for node in FRONTENDS:
        machines.write(node, {PROGRAM: program, f"/etc/systemd/system/{NAME}": UNIT})
        machines.write(node, {CONF: conf}, mode=0o600)
        machines.check(node, ["systemctl", "daemon-reload"])
        machines.check(node, ["systemctl", "enable", "-q", NAME])
        machines.check(node, ["systemctl", "restart", NAME])


def load(machines: Machines, seconds: float) -> Mapping[str, Any]:
    """Put, get and search through both front ends from the client's machine; what it printed."""
    if not 0 < seconds <= MAX_SECONDS:
        raise LabError(f"a load on the shop lasts up to {MAX_SECONDS:.0f} s, not {seconds:g}")
    put_programs(machines, CLIENT)
    client = Program(machines, CLIENT, "shop_client", {"addresses": addresses(FRONTENDS), "seconds": seconds})
    client.start()
    return client.outcome()


def table(result: Mapping[str, Any]) -> str:
    """What a load was like, for people."""
    lines = [f"{'front end':<12}{'what':<10}{'requests':>10}{'failed':>10}{'slowest':>12}"]
    for row in result["rows"]:
        lines.append(
            f"{row['front_end']:<12}{row['what']:<10}{row['requests']:>10}{row['failed']:>10}{row['slowest']:>10.3f} s"
        )
    lines.append(f"search finds {result['found']} of {result['put']} objects (it shows 100 at most)")
    lines += [f"{count} x {error}" for error, count in result["errors"].items()]
    return "\n".join(lines)
