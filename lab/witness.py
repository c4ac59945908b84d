"""What the cluster is really like: each machine is asked for itself, past chefha's own view of the whole.

Tests and benchmarks judge by this: who has the VIP, whose PostgreSQL takes writes, who streams from whom.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .nodes import Machines
from .progress import LabError
from .topology import BACKENDS, BY_NAME, CLIENT, INTERFACE, MASTER, VIP, Node

LOOK_TIMEOUT = 10.0
# Seconds between two looks: each runs a shell on every machine, which costs the cores they share more than a write.
PAUSE = 1.5
POSTGRES_QUESTION = (
    "SELECT pg_is_in_recovery(), "
    "(SELECT string_agg(application_name, ' ' ORDER BY 1) FROM pg_stat_replication WHERE state = 'streaming')"
)
# leaderl serves over TLS; without `tls:enabled` it does not. A shell function that takes a URL without its scheme.
ASK_LEADERL = 'leaderl() { url=$1; shift; curl -sk "$@" "https://$url" || curl -s "$@" "http://$url"; }'
# One shell per look: `key=value` lines, what can't be asked is left out. Not the wrapper /usr/bin/psql: it is Perl.
SCRIPT = f"""
cd /
[ -n "$(ip -4 -o address show dev {INTERFACE} to {VIP}/32)" ] && echo vip=yes
psql=$(ls /usr/lib/postgresql/*/bin/psql | tail -n 1)
said=$(PGCONNECT_TIMEOUT=2 timeout 2 "$psql" -X -h /run/chefha/postgresql -U postgres -d postgres -AtF ' ' \
  -c "{POSTGRES_QUESTION}" 2>/dev/null) && echo "postgresql=$said"
said=$(curl -s --max-time 2 --unix-socket /run/chefha/leaderl.sock http://local/status) && echo "leaderl=$said"
tls=/etc/chefha/tls
curl -s --max-time 2 --cacert $tls/ca.crt --cert $tls/server.crt --key $tls/server.key "https://$1:2379/health" \
  | grep -q '"health":"true"' && echo etcd=yes
[ -n "$(ss -Htn state established dst {MASTER.address} dport = 4505)" ] && echo master=yes
exit 0
"""
# What a machine's own search node knows of its cluster.
SEARCH_SCRIPT = 'curl -s --max-time 3 "http://$1:9200/_cluster/health?local=true"'
# For people: what a back end's leaderl and PostgreSQL wrote last.
LOGS_SCRIPT = (
    "for unit in leaderl postgresql; do "
    'journalctl --unit "chefha-$unit" --lines 15 --no-pager --quiet --output short-precise; done'
)
# Asked from a client's place until somebody else than $1 leads behind the VIP: one process, and little work.
AWAIT_SCRIPT = f"""
{ASK_LEADERL}
while :; do
  said=$(leaderl {VIP}:7331/status --max-time 0.5)
  name=$(printf %s "$said" | grep -o '"name": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)
  if [ -n "$name" ] && [ "$name" != "$1" ]; then
    leaderl {VIP}:7331/leader --max-time 0.5 -f -o /dev/null && {{ echo "$name"; exit 0; }}
  fi
  sleep 0.1
done
"""


@dataclass(frozen=True)
class Seen:
    """One back end, as it was found. `reachable` is False for a machine without power and for a frozen one."""

    name: str
    reachable: bool
    vip: bool = False
    #: None where PostgreSQL does not answer
    writable: bool | None = None
    #: the members that stream from here
    standbys: tuple[str, ...] = ()
    role: str = ""
    reason: str = ""
    epoch: int = 0
    etcd: bool = False
    #: whether its minion is connected to the master
    master: bool = False


class Witness:
    """Looks at the back ends, and waits for what they should come to."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def look(self) -> list[Seen]:
        """All back ends, asked at once."""
        with ThreadPoolExecutor(len(BACKENDS)) as pool:
            return list(pool.map(self._look_at, BACKENDS))

    def leader(self) -> str:
        """The one back end that has the VIP and takes writes; LabError if there is none, or more than one."""
        leaders = [seen.name for seen in self.look() if seen.vip and seen.writable]
        if len(leaders) != 1:
            raise LabError(f"expected one leader, found {', '.join(leaders) or 'none'}")
        return leaders[0]

    def await_converged(self, timeout: float) -> float:
        """Wait until the cluster is whole; the seconds it took. LabError with what is missing when time is up."""
        began = time.monotonic()
        last: list[Seen] = []

        def problems() -> list[str]:
            nonlocal last
            before, last = last, self.look()
            found = why_not_converged(last)
            if not found and epochs(before) != epochs(last):
                return ["it has only just come to that"]  # a cluster that flaps looks whole now and then
            return found

        self.await_true(problems, timeout, "the cluster did not converge")
        return round(time.monotonic() - began, 1)

    def await_search(self, nodes: int = 3, timeout: float = 120.0) -> float:
        """Wait until so many search nodes run, each in a green cluster of just these; the seconds it took."""
        began = time.monotonic()

        def problems() -> list[str]:
            with ThreadPoolExecutor(len(BACKENDS)) as pool:
                return why_no_search(list(pool.map(self._search_of, BACKENDS)), nodes)

        self.await_true(problems, timeout, "search did not become whole")
        return round(time.monotonic() - began, 1)

    def await_new_leader(self, old: str, timeout: float) -> str:
        """Wait until another one than `old` leads behind the VIP, seen from a client; its name. LabError if in vain."""
        ran = self._machines.run(CLIENT, ["sh", "-c", AWAIT_SCRIPT, "sh", old], timeout)
        if ran.rc:
            raise LabError(f"nobody took over from {old} within {timeout:g} s\n{in_words(self.look())}")
        return ran.out.strip()

    def await_true(self, problems: Callable[[], Sequence[str]], timeout: float, what: str) -> None:
        """Ask until there is no problem; LabError with the last ones, and with all that is known, if in vain."""
        deadline = time.monotonic() + timeout
        while found := problems():
            if time.monotonic() > deadline:
                said = "\n".join([in_words(self.look()), *(self._logs_of(node) for node in BACKENDS)])
                raise LabError(f"{what} within {timeout:g} s: {'; '.join(found)}\n{said}")
            time.sleep(PAUSE)

    def _logs_of(self, node: Node) -> str:
        """The last lines of this machine's leaderl and PostgreSQL: the lab may be gone before anybody can look."""
        try:
            lines = self._machines.run(node, ["sh", "-c", LOGS_SCRIPT], LOOK_TIMEOUT).out.splitlines()
        except LabError as error:
            lines = [str(error)]
        return "\n".join([f"    {node.name}:", *(f"        {line}" for line in lines)])

    def _search_of(self, node: Node) -> dict[str, Any]:
        """The health of the cluster as this machine's search node knows it; empty if it does not answer."""
        container = self._machines.find(node)
        if container is None or container.status != "running":
            return {}
        try:
            return _json(self._machines.run(node, ["sh", "-c", SEARCH_SCRIPT, "sh", node.address], LOOK_TIMEOUT).out)
        except LabError:  # it went down while it was asked
            return {}

    def _look_at(self, node: Node) -> Seen:
        container = self._machines.find(node)
        if container is None or container.status != "running":
            return Seen(node.name, reachable=False)
        try:
            out = self._machines.run(node, ["sh", "-c", SCRIPT, "sh", node.address], LOOK_TIMEOUT).out
        except LabError:  # it went down while it was asked
            return Seen(node.name, reachable=False)
        return parsed(node.name, out)


def parsed(name: str, text: str) -> Seen:
    """What the script printed on a reachable machine. Pure."""
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    recovery, _, standbys = said.get("postgresql", "").partition(" ")
    status = _json(said.get("leaderl", ""))
    return Seen(
        name=name,
        reachable=True,
        vip="vip" in said,
        writable={"f": True, "t": False}.get(recovery),
        standbys=tuple(standbys.split()),
        role=str(status.get("role", "")),
        reason=str(status.get("reason", "")),
        epoch=int(status.get("epoch", 0)),
        etcd="etcd" in said,
        master="master" in said,
    )


def why_not_converged(rows: Sequence[Seen]) -> list[str]:
    """What a whole cluster would have and this one has not; empty if it is whole. Pure.

    Whole: one writable leader with the VIP, two followers streaming from it, every etcd member and minion at work.
    """
    problems = [f"{row.name} is not reachable" for row in rows if not row.reachable]
    leaders = [row for row in rows if row.writable and row.vip]
    if len(leaders) != 1:
        return [*problems, f"{len(leaders)} leaders"]
    [leader] = leaders
    for row in (row for row in rows if row.reachable):
        if row is not leader:
            problems += _not_a_follower(row, leader)
        if row.role not in ("leader", "follower"):
            problems.append(f"leaderl of {row.name}: {row.role or 'no answer'}: {row.reason}")
        if not row.etcd:
            problems.append(f"etcd of {row.name} is not healthy")
        if not row.master:
            problems.append(f"the minion of {row.name} is not connected")
    return problems


def why_no_search(healths: Sequence[Mapping[str, Any]], nodes: int) -> list[str]:
    """Why these are not so many search nodes that form one green cluster; empty if they are. Pure."""
    answers = [health for health in healths if "number_of_nodes" in health]
    problems = [] if len(answers) == nodes else [f"{len(answers)} of {nodes} search nodes answer"]
    for health in answers:
        if (health["number_of_nodes"], health.get("status")) != (nodes, "green"):
            problems.append(f"one knows {health['number_of_nodes']} nodes and is {health.get('status')}")
    return problems


def vip_problems(rows: Sequence[Seen]) -> list[str]:
    """Why the VIP is not exactly on the one writable node, among those that can be asked; empty if it is. Pure."""
    holders = [row for row in rows if row.vip]
    problems = [f"{row.name} holds the VIP but takes no writes" for row in holders if not row.writable]
    if len(holders) != 1:
        problems.append(f"{len(holders)} nodes hold the VIP ({', '.join(row.name for row in holders)})")
    return problems


def epochs(rows: Sequence[Seen]) -> set[int]:
    """The epochs that the members speak of."""
    return {row.epoch for row in rows}


def in_words(rows: Sequence[Seen]) -> str:
    """A line per back end, for people."""
    lines = []
    for row in rows:
        if not row.reachable:
            lines.append(f"    {row.name}: not reachable")
            continue
        postgres = {None: "no answer", True: "writable", False: "standby"}[row.writable]
        lines.append(
            f"    {row.name}: {'VIP, ' if row.vip else ''}PostgreSQL: {postgres}, standbys: "
            f"{' '.join(row.standbys) or 'none'}, etcd: {'well' if row.etcd else 'not well'}, "
            f"minion: {'connected' if row.master else 'not connected'}, "
            f"leaderl: {row.role or 'no answer'} in epoch {row.epoch}: {row.reason}"
        )
    return "\n".join(lines)


def others(name: str) -> list[str]:
    """The other back ends."""
    return [node.name for node in BACKENDS if node is not BY_NAME[name]]


def _not_a_follower(row: Seen, leader: Seen) -> list[str]:
    problems = []
    if row.vip:
        problems.append(f"{row.name} has the VIP, too")
    if row.writable is not False:
        problems.append(f"PostgreSQL of {row.name} {'takes writes, too' if row.writable else 'does not answer'}")
    elif row.name not in leader.standbys:
        problems.append(f"{row.name} does not stream from {leader.name}")
    return problems


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
