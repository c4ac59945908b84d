"""status: the services of this node as systemd sees them, beside what the others say, and the disks.

It never hangs: every cell that asks somebody has its own deadline and says ``error: …`` instead.
"""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from chefha_core.backup import wal
from chefha_core.parts.etcd import Health
from chefha_core.parts.postgres_tools import Places, PostgresError
from chefha_core.parts.search import SearchHealth
from chefha_core.search_engine import UNIT as SEARCH_UNIT
from chefha_core.settings import Settings
from chefha_core.verbs import pending_restart
from chefha_core.verbs.cluster_status import ask, columns, gather, report, search_health
from chefha_core.verbs.reach import VerbError, etcd_client, leaderl_status

UNITS = {
    "postgresql": "chefha-postgresql.service",
    "etcd": "chefha-etcd.service",
    "leaderl": "chefha-leaderl.service",
    "salt-minion": "salt-minion.service",
}
HEADER = ["Service", "Local Status", "Time in State", "Distributed Node Status"]
FRONT_END_FOLDERS = frozenset({"/var/opt/opscode", "/var/log"})
PROPERTIES = "Id,ActiveState,SubState,MainPID,StateChangeTimestampMonotonic"


def status(
    settings: Settings, name: str, simple: bool = False, service: str = "", deadline: float = 1.0
) -> dict[str, Any]:
    """Per service: state, pid, seconds in that state, and (unless ``simple``) what the cluster says; the disks."""
    units = units_of(settings, name)
    if service and service not in units:
        raise VerbError(f"status {service}: no such service; there are {', '.join(units)}")
    wanted = {key: unit for key, unit in units.items() if service in ("", key)}
    rows = local(wanted)
    if not simple:
        cells = distributed(settings, name, deadline) if name in settings.members else {}
        for key, row in rows.items():
            row["distributed"] = cells.get(key, "-")
    if simple or service:
        return {"services": rows, "disks": {}, "problems": {}}
    if name not in settings.members:
        return {"services": rows, "disks": rooms(FRONT_END_FOLDERS, deadline), "problems": {}}
    told = problems(settings, deadline) if rows["postgresql"]["state"] == "running" else {}
    return {"services": rows, "disks": disks(settings, deadline), "problems": told}


def problems(settings: Settings, deadline: float) -> dict[str, str]:
    """What is not well though PostgreSQL runs, by its name: a log that is not archived, settings that do not count."""
    looks = {"settings": pending_restart.problem}
    if settings.backup.wal_archive:
        looks["wal_archive"] = wal.problem
    places, until, found = Places.of(settings), time.monotonic() + deadline, {}
    for about, look in looks.items():
        try:
            found[about] = look(places, until)
        except PostgresError as error:
            found[about] = f"PostgreSQL does not say: {error}"
    return {about: said for about, said in found.items() if said}


def units_of(settings: Settings, name: str) -> dict[str, str]:
    """The services of this node; search goes by the engine's own name, and Chef Infra Server has chef-server-ctl."""
    if name in settings.frontends:
        return {"salt-minion": UNITS["salt-minion"]}
    return UNITS | ({settings.search.flavor: SEARCH_UNIT} if settings.search.flavor != "none" else {})


def local(units: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """One question to systemd about all units."""
    command = ["systemctl", "show", "--no-pager", f"--property={PROPERTIES}", *units.values()]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return {key: {"state": f"error: {error}", "pid": 0, "seconds": 0} for key in units}
    return parse_units(text, units, time.monotonic())


def parse_units(text: str, units: Mapping[str, str], now: float) -> dict[str, dict[str, Any]]:
    """`systemctl show` of several units as rows; pure."""
    shown = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        shown[values.get("Id", "")] = values
    rows = {}
    for key, unit in units.items():
        values = shown.get(unit, {})
        active, since = values.get("ActiveState", "unknown"), int(values.get("StateChangeTimestampMonotonic") or 0)
        rows[key] = {
            "state": "running" if active == "active" else active,
            "pid": int(values.get("MainPID") or 0),
            "seconds": int(now - since / 1e6) if since else 0,
        }
    return rows


def distributed(settings: Settings, name: str, deadline: float) -> dict[str, str]:
    """The last column by service; each cell is an answer or an error."""
    client = etcd_client(settings, name, deadline)
    questions: dict[str, Callable[[], Any]] = {
        "cluster": lambda: report(settings, ask(settings, name, deadline)),
        "etcd": lambda: client.healthy_endpoints(deadline),
    }
    if settings.search.flavor != "none":
        questions["search"] = lambda: search_health(settings, name, deadline)
    answers, problems = gather(questions, deadline + 0.3)
    client.close()
    cluster = answers.get("cluster")
    error = problems.get("cluster", "") if cluster is None else cluster["problems"].get("etcd", "")
    if cluster is None or error:
        cells = {"postgresql": f"error: {error}", "leaderl": f"error: {error}"}
    else:
        cells = {"postgresql": postgresql_cell(cluster), "leaderl": leaderl_cell(cluster)}
    if "search" in questions:
        health = answers.get("search")
        cells[settings.search.flavor] = (
            search_cell(health, len(settings.members)) if health else f"error: {problems.get('search', 'no answer')}"
        )
    healths = answers.get("etcd")
    return cells | {"etcd": etcd_cell(healths) if healths else f"error: {problems.get('etcd', 'no answer')}"}


def search_cell(health: SearchHealth, members: int) -> str:
    """The colour that search gives itself, and how many of its nodes are there."""
    return f"state: {health.status}; nodes online: {health.nodes}/{members}"


def etcd_cell(healths: Sequence[Health]) -> str:
    """How many of etcd's members answer."""
    well = sum(health.ok for health in healths)
    colour = "green" if well == len(healths) else "yellow" if well * 2 > len(healths) else "red"
    return f"health: {colour}; healthy nodes: {well}/{len(healths)}"


def postgresql_cell(cluster: Mapping[str, Any]) -> str:
    """How many members lead, are away, catch up, are in step."""
    count = Counter(row["pg"] for row in cluster["members"])
    words = {"leader": "leader", "offline": "offline", "syncing": "syncing", "synced": "follower"}
    return "; ".join(f"{label}: {count[word]}" for label, word in words.items())


def leaderl_cell(cluster: Mapping[str, Any]) -> str:
    """How many members lead, wait, follow."""
    count = Counter(row["role"] for row in cluster["members"])
    waiting = count["waiting_for_leader"] + count["deposed_leader"] + count["promoting"]
    total = len(cluster["members"])
    return f"leader: {count['leader']}; waiting: {waiting}; follower: {count['follower']}; total: {total}"


def disks(settings: Settings, deadline: float) -> dict[str, str]:
    """Room on the file systems of the data folders; a disk that hangs is an error, not a wait."""
    paths = {settings.postgresql.data_dir, settings.etcd.data_dir, "/var/log"}
    if settings.search.flavor != "none":
        paths |= {settings.search.data_dir, settings.search.log_dir}
    found, data = rooms(paths, deadline), settings.postgresql.data_dir
    return found | {data: f"{found[data]}, {_storage(deadline)}"}


def rooms(paths: Set[str], deadline: float) -> dict[str, str]:
    """Room below each folder."""
    answers, problems = gather({path: (lambda p=path: _room(p)) for path in sorted(paths)}, deadline)  # type: ignore[misc]
    return answers | {path: f"error: {why}" for path, why in problems.items()}


def _storage(deadline: float) -> str:
    """What leaderl's test writes say of PostgreSQL's storage."""
    try:
        said = leaderl_status(deadline)
    except VerbError:
        return "not tested: leaderl does not answer"
    if said.get("storage"):
        return f"IN TROUBLE: {said['storage']}"
    if said.get("storage_problem"):
        return f"suspicious: {said['storage_problem']}"
    seconds = [f"{disk['seconds']:g} s" for disk in said.get("disks", [])]
    return f"test write {' and '.join(seconds)}" if seconds else "not tested yet"


def _room(path: str) -> str:
    """Asked by a program of its own, which may hang and is left behind: nothing ends while a thread hangs in a disk."""
    for folder in (Path(path), *Path(path).parents):
        command = ["stat", "--file-system", "--format=%a %f %b %S", str(folder)]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        if said.returncode == 0:
            available, free, blocks, size = map(int, said.stdout.split())
            return f"{available * size / 1e9:.1f} GB free, {100 * (blocks - free) / blocks:.0f}% used"
    raise OSError(f"{path} cannot be looked at")


def table(data: Mapping[str, Any]) -> str:
    """As chef-backend-ctl prints it."""
    rows = [HEADER]
    for key, row in data["services"].items():
        state = f"{row['state']} (pid {row['pid']})" if row["pid"] else row["state"]
        rows.append([key, state, duration(row["seconds"]), row.get("distributed", "-")])
    room = "; ".join(f"{path}: {text}" for path, text in data["disks"].items())
    width = max(len(row[0]) for row in rows)
    more = [("disks", room)] if room else []
    more += [("problem", f"{name}: {said}") for name, said in data["problems"].items()]
    return "\n".join([columns(rows), *(f"{word.ljust(width)}  {text}" for word, text in more)])


def simple_lines(data: Mapping[str, Any]) -> str:
    """`run: etcd: (pid 6661) 106983s`, one line per service."""
    lines = []
    for key, row in data["services"].items():
        word = "run" if row["state"] == "running" else "down"
        pid = f"(pid {row['pid']}) " if row["pid"] else ""
        lines.append(f"{word}: {key}: {pid}{row['seconds']}s")
    return "\n".join(lines)


def duration(seconds: int) -> str:
    """`1d 5h 59m 43s`, from the largest unit that is not zero."""
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{number}{unit}" for number, unit in parts)
