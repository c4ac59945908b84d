"""Patroni with vip-manager as a subject of the benchmark."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lab.api import Lab, LabError
from lab.probe import login
from lab.topology import BACKENDS, BY_NAME, INTERFACE, VIP, Node

from . import files

BOOTSTRAP_TIMEOUT = 120.0
STEP_TIMEOUT = 60.0
HAND_OVER_TIMEOUT = 60.0
PAUSE = 0.5
_ETCD, _PATRONI, _VIP_MANAGER = files.UNITS
_ALL, _CHEFHA = " ".join(files.UNITS), "chefha-etcd.service chefha-leaderl.service"
# What a node runs is what it starts at its boot, too. The VIP runs out by itself when leaderl is gone.
STOP_CHEFHA = f"""
systemctl disable --quiet {_CHEFHA}
systemctl stop chefha-leaderl.service chefha-postgresql.service
systemctl stop chefha-etcd.service
while [ -n "$(ip -4 -o address show to {VIP}/32)" ]; do sleep 0.2; done
"""
START_CHEFHA = f"systemctl enable --quiet {_CHEFHA}; systemctl start --no-block {_CHEFHA}"
START_PEER = f"systemctl enable --quiet {_ALL}; systemctl start {_ALL}"
# Patroni leaves PostgreSQL and vip-manager the address.
STOP_PEER = f"""
systemctl disable --quiet {_ALL}
systemctl stop {_VIP_MANAGER} {_PATRONI}
pkill -INT -o -x postgres || true
while pgrep -x postgres >/dev/null; do sleep 0.1; done
systemctl stop {_ETCD}
ip address del {VIP}/32 dev {INTERFACE} 2>/dev/null || true
"""
PSQL = f"setpriv --reuid postgres --init-groups psql -X -q -h {files.SOCKETS} -U postgres -d postgres"
SCRIPT = f"""
[ -n "$(ip -4 -o address show dev {INTERFACE} to {VIP}/32)" ] && echo vip
curl -s --max-time 1 http://127.0.0.1:{files.REST}/patroni
exit 0
"""


@dataclass(frozen=True)
class Seen:
    """One back end: whether it has the VIP, and what Patroni says there."""

    name: str
    vip: bool = False
    role: str = ""
    state: str = ""
    standbys: tuple[str, ...] = ()

    @property
    def leads(self) -> bool:
        """True for a running primary that has the VIP."""
        return self.vip and self.role in ("primary", "master") and self.state == "running"


class Patroni:
    """See `bench.subject.Subject`. `synchronous`: a commit is on two of three nodes, as with chefha's default;
    otherwise it does not wait, which is Patroni's own default."""

    def __init__(self, lab: Lab, synchronous: bool) -> None:
        self._machines, self._synchronous = lab.machines, synchronous
        self.name = f"Patroni, {'quorum' if synchronous else 'asynchronous'}"

    # ---- taking turns with chefha

    def begin(self) -> None:
        """chefha rests, the peer works; it is laid out the first time."""
        self._everywhere(STOP_CHEFHA)
        if self._machines.run(BACKENDS[0], ["test", "-e", f"{files.ETC}/patroni.yml"]).rc:
            self._lay_out()
        self._everywhere(START_PEER)
        try:
            self.await_whole(BOOTSTRAP_TIMEOUT)
        except LabError:  # the last fault left a member that does not come back by itself: that is in its run's numbers
            self._everywhere(f"{STOP_PEER}\nrm -rf {files.HOME}/data {files.HOME}/etcd/*\n{START_PEER}")
            self.await_whole(BOOTSTRAP_TIMEOUT)
        self._choose_mode()
        self._make_role()

    def end(self) -> None:
        """The peer rests, chefha works."""
        self._everywhere(STOP_PEER)
        self._everywhere(START_CHEFHA)

    def _lay_out(self) -> None:
        passwords = {role: secrets.token_urlsafe(16) for role in ("postgres", "replicator", "rewinder")}
        major = int(self._machines.stack()["postgresql"])  # type: ignore[index]

        def one(node: Node) -> None:
            self._machines.check(node, ["mkdir", "-p", files.ETC])
            self._machines.write(node, files.files(node, major, passwords), mode=0o644)
            script = (
                f"set -e; chown postgres {files.ETC}/patroni.yml; chmod 600 {files.ETC}/patroni.yml; "
                f"install -d -o postgres {files.HOME}; install -d -o etcd -m 700 {files.HOME}/etcd; "
                "systemctl daemon-reload"
            )
            self._machines.check(node, ["sh", "-c", script], STEP_TIMEOUT)

        self._all(one)

    def _choose_mode(self) -> None:
        """Patroni's configuration for all its members, and wait until the leader's PostgreSQL goes by it."""
        leader = BY_NAME[self.leader()]
        wish = json.dumps({"synchronous_mode": "quorum" if self._synchronous else False})
        url = f"http://127.0.0.1:{files.REST}/config"
        self._machines.check(leader, ["curl", "-s", "--fail-with-body", "-X", "PATCH", "-d", wish, url], STEP_TIMEOUT)
        ask = ["sh", "-c", f"{PSQL} -At -c 'show synchronous_standby_names'"]
        deadline = time.monotonic() + STEP_TIMEOUT
        while bool(self._machines.check(leader, ask, 10).strip()) is not self._synchronous:
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: the mode of replication does not change")
            time.sleep(PAUSE)

    def _make_role(self) -> None:
        """The role that the probe logs in with."""
        user, password = login(self._machines)
        sql = (
            f"do $$ begin if not exists (select from pg_roles where rolname = '{user}') then "
            f"create role {user} superuser login; end if; end $$; alter role {user} password :'password'"
        )
        # by the environment and standard input: neither is seen in a list of processes
        script = f'printf \'%s\\n\' "\\\\getenv password PASSWORD" "$SQL" | {PSQL} -v ON_ERROR_STOP=1'
        node = BY_NAME[self.leader()]
        ran = self._machines.run(node, ["sh", "-c", script], STEP_TIMEOUT, {"PASSWORD": password, "SQL": sql})
        if ran.rc:
            raise LabError(f"no role for the probe on {node.name}: {ran.text}")

    # ---- what a run asks for

    def await_whole(self, timeout: float) -> float:
        began = time.monotonic()
        self._await(_why_not_whole, timeout, "the peer's cluster is not whole")
        return round(time.monotonic() - began, 1)

    def leader(self) -> str:
        leaders = [row.name for row in self._look() if row.leads]
        if len(leaders) != 1:
            raise LabError(f"expected one leader of the peer, found {', '.join(leaders) or 'none'}")
        return leaders[0]

    def hand_over(self, to: str) -> Mapping[str, Any]:
        leader, began = self.leader(), time.monotonic()
        wish = json.dumps({"leader": leader, "candidate": to})
        url = f"http://127.0.0.1:{files.REST}/switchover"
        said = self._machines.check(
            BY_NAME[leader], ["curl", "-s", "--fail-with-body", "-X", "POST", "-d", wish, url], HAND_OVER_TIMEOUT
        )
        return {"said": said.strip(), "seconds": round(time.monotonic() - began, 3)}

    def await_new_leader(self, old: str, timeout: float) -> str:
        def nobody(rows: Sequence[Seen]) -> str:
            return "" if any(row.leads and row.name != old for row in rows) else f"nobody took over from {old}"

        self._await(nobody, timeout, "no failover of the peer")
        return next(row.name for row in self._look() if row.leads and row.name != old)

    def notes(self, leader: str) -> Mapping[str, Any]:
        return {}

    def versions(self) -> Mapping[str, Any]:
        ask = "dpkg-query -W -f '${Package} ${Version}\\n' patroni vip-manager"
        installed = self._machines.check(BACKENDS[0], ["sh", "-c", ask]).split("\n")
        return {
            "installed": [line for line in installed if line],
            "settings": {**files.TIMES, "vip_manager_interval_ms": files.INTERVAL},
        }

    # ---- looking

    def _look(self) -> list[Seen]:
        with ThreadPoolExecutor(len(BACKENDS)) as pool:
            return list(pool.map(self._look_at, BACKENDS))

    def _look_at(self, node: Node) -> Seen:
        found = self._machines.find(node)
        if found is None or found.status != "running":
            return Seen(node.name)
        try:
            return parsed(node.name, self._machines.run(node, ["sh", "-c", SCRIPT], 5).out)
        except LabError:  # it went down while it was asked
            return Seen(node.name)

    def _await(self, problem: Callable[[Sequence[Seen]], str], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while why := problem(rows := self._look()):
            if time.monotonic() > deadline:
                raise LabError(f"{what} within {timeout:g} s: {why}; {rows}")
            time.sleep(PAUSE)

    def _all(self, action: Callable[[Node], None]) -> None:
        with ThreadPoolExecutor(len(BACKENDS)) as pool:
            list(pool.map(action, BACKENDS))

    def _everywhere(self, script: str) -> None:
        def one(node: Node) -> None:
            self._machines.check(node, ["sh", "-c", f"set -e; {script}"], STEP_TIMEOUT)

        self._all(one)


def parsed(name: str, text: str) -> Seen:
    """What the script printed. Pure."""
    vip, said = text.startswith("vip\n"), text.removeprefix("vip\n")
    try:
        status = json.loads(said)
    except ValueError:
        return Seen(name, vip)
    rows = status.get("replication") or ()
    standbys = sorted(str(row.get("application_name")) for row in rows if row.get("state") == "streaming")
    return Seen(name, vip, str(status.get("role", "")), str(status.get("state", "")), tuple(standbys))


def _why_not_whole(rows: Sequence[Seen]) -> str:
    leaders = [row for row in rows if row.leads]
    if len(leaders) != 1:
        return f"{len(leaders)} leaders"
    missing = {row.name for row in rows} - {leaders[0].name} - set(leaders[0].standbys)
    holders = [row.name for row in rows if row.vip]
    if missing:
        return f"{', '.join(sorted(missing))} does not stream"
    return f"the VIP is on {', '.join(holders)}" if len(holders) != 1 else ""
