"""cluster-status: one row per member, and who holds what. Everything is asked at once, each with its own deadline."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from chefha_core import codec
from chefha_core.leaderl.client import Way
from chefha_core.model import EtcdView, MemberReport, PgState, Position, format_lsn
from chefha_core.parts.etcd import EtcdMember
from chefha_core.parts.search import SearchClient, SearchHealth
from chefha_core.settings import Settings
from chefha_core.verbs.handover import unfitness
from chefha_core.verbs.reach import etcd_client

#: seconds for each question; the whole verb takes little more
DEADLINE = 1.0
ES = {"ES": "search"}
#: more columns on demand: bytes behind the leader, whether it can take over by plan, whether its failover is off
WIDE = ["Follows", "Lag", "Eligible", "Blocked"]
COLUMNS = {"Name": "name", "IP": "ip", "GUID": "guid", "Role": "role", "PG": "pg"}


@dataclass(frozen=True)
class Answers:
    """What was heard within the deadline; ``problems`` says why something was not."""

    view: EtcdView | None = None
    members: tuple[EtcdMember, ...] = ()
    #: what each member's leaderl says of itself
    live: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    search: SearchHealth | None = None


def cluster_status(settings: Settings, name: str, deadline: float = DEADLINE) -> dict[str, Any]:
    """The whole cluster as plain data, seen from the member or the front end ``name``."""
    if name in settings.frontends:
        from chefha_core.verbs import frontend_status  # loads psycopg2, which a member's answer need not wait for

        return frontend_status.report(settings, *frontend_status.ask(settings, deadline))
    return report(settings, ask(settings, name, deadline))


def ask(settings: Settings, name: str, deadline: float) -> Answers:
    """Ask etcd and every member's leaderl, all at the same time."""
    client = etcd_client(settings, name, deadline)
    way = Way.of(settings)
    questions: dict[str, Callable[[], Any]] = {
        "etcd": lambda: codec.view(client.range(), time.monotonic()),
        "etcd members": lambda: () if settings.etcd_endpoints else client.members(),
    }
    for member in settings.members:
        questions[member] = lambda member=member: fetch(way, member, deadline)  # type: ignore[misc]
    if settings.search.flavor != "none":
        questions["search"] = lambda: search_health(settings, name, deadline)
    answers, problems = gather(questions, deadline)
    client.close()
    live = {member: answers[member] for member in settings.members if member in answers}
    return Answers(answers.get("etcd"), answers.get("etcd members", ()), live, problems, answers.get("search"))


def search_health(settings: Settings, name: str, deadline: float) -> SearchHealth:
    """What this member's search says of its cluster; SearchError if it does not answer."""
    client = SearchClient(settings.members[name], settings.search.port, deadline)
    try:
        return client.health()
    finally:
        client.close()


def gather(questions: Mapping[str, Callable[[], Any]], deadline: float) -> tuple[dict[str, Any], dict[str, str]]:
    """All questions in parallel: answers, and for those that failed or came too late the reason."""
    futures = {name: _asked(question) for name, question in questions.items()}
    done, _ = wait(futures.values(), deadline + 0.2)
    answers, problems = {}, {}
    for name, future in futures.items():
        if future not in done:
            problems[name] = f"no answer within {deadline:g} s"
        elif error := future.exception():
            problems[name] = str(getattr(error, "reason", "")) or str(error) or type(error).__name__
        else:
            answers[name] = future.result()
    return answers, problems


def _asked(question: Callable[[], Any]) -> Future[Any]:
    """Ask in a thread that may hang for ever: the program ends without it, as it would not without an executor's."""
    future: Future[Any] = Future()

    def ask() -> None:
        try:
            future.set_result(question())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=ask, name="chefha-ask", daemon=True).start()
    return future


def fetch(way: Way, member: str, deadline: float) -> dict[str, Any]:
    """What a member's leaderl says of itself; OSError or ValueError if it says nothing that can be read."""
    status, text = way.ask(member, "GET", "/status", deadline)
    data: dict[str, Any] = json.loads(text)
    if status != 200:
        raise ConnectionError(str(data.get("error") or f"answered {status}"))
    return data


def report(settings: Settings, answers: Answers) -> dict[str, Any]:
    """Answers as the verb returns them; pure."""
    view = answers.view
    leader = view.leader if view else None
    guids = {member.name: member.id_hex for member in answers.members}
    rows = [_row(name, str(address), answers, guids) for name, address in settings.members.items()]
    rows = [{**row, **_standing(settings, view, row)} for row in rows]
    if settings.search.flavor == "none":
        rows = [{**row, "search": None} for row in rows]
    holders = [row["name"] for row in rows if row["vip"]]
    return {
        "cluster": settings.cluster,
        "leader": leader.name if leader else None,
        "leader_state": str(leader.state) if leader else None,
        "epoch": leader.epoch if leader else (view.last_epoch if view else None),
        "vip": {"address": settings.vip, "holder": ", ".join(holders) or None},
        "failover": view.config.failover if view and view.config else None,
        "durability": settings.durability,
        "voters": list(view.sync.voters) if view and view.sync else [],
        "alone": (view.alone or None) if view else None,
        "removed": sorted(view.removed) if view else [],
        "handover_asked": view.intent.to or "anybody" if view and view.intent else None,
        "search": _search(settings, answers),
        "members": rows,
        "problems": {
            **{asked: why for asked, why in answers.problems.items() if not view or asked not in view.removed},
            **{f"storage of {row['name']}": row["storage"] for row in rows if row["storage"]},
        },
    }


def _search(settings: Settings, answers: Answers) -> dict[str, Any] | None:
    """The search cluster as this node's search sees it; None where there is none."""
    if settings.search.flavor == "none":
        return None
    seen = answers.search
    return {
        "flavor": settings.search.flavor,
        "status": seen.status if seen else "unknown",
        "nodes": seen.nodes if seen else None,
    }


def _row(name: str, address: str, answers: Answers, guids: Mapping[str, str]) -> dict[str, Any]:
    view = answers.view
    said = view.members.get(name) if view else None
    unheard = said.reason if said else "says nothing: no leaderl runs there, or it is cut off"
    live = answers.live.get(name, {})
    position = said.position if said else None
    if view and name in view.removed:
        live, unheard = {}, "removed from the cluster; a machine that joins under its name takes its place"
    return {
        "name": name,
        "ip": address,
        "guid": guids.get(name, "-"),
        "role": str(live.get("role") or (said.role if said else _absent(view, name))),
        "pg": pg_word(said.pg, said.streaming) if said else "offline",
        "search": str(live.get("search") or (said.search if said else "") or "offline"),
        "storage": str(live.get("storage", said.storage if said else "")),
        "vip": bool(live.get("vip", False)),
        "lag_bytes": _lag(view, said),
        "timeline": position.timeline if position else None,
        "lsn": format_lsn(position.lsn) if position else None,
        "failover": said.failover if said else None,
        "reason": str(live.get("reason") or unheard),
        "version": str(live.get("version") or (said.version if said else "")) or None,
    }


def _standing(settings: Settings, view: EtcdView | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """Whom a member follows, and why it cannot take over by plan ("" if it can, None if it leads)."""
    leader = view.leader.name if view and view.leader else None
    unfit = unfitness(settings, view, row["name"]) if view else "etcd does not answer"
    return {
        "follows": leader if row["pg"] == "follower" else None,
        "why_not_eligible": None if row["name"] == leader else unfit,
    }


def _absent(view: EtcdView | None, name: str) -> str:
    return "removed" if view and name in view.removed else "-"


def pg_word(state: PgState, streaming: bool) -> str:
    """The four words for a member's PostgreSQL."""
    if state is PgState.PRIMARY:
        return "leader"
    if state is PgState.STANDBY and streaming:
        return "follower"
    return "syncing" if state in (PgState.STANDBY, PgState.STARTING) else "offline"


def _lag(view: EtcdView | None, said: MemberReport | None) -> int | None:
    """Bytes by which a member is behind the leader, as far as both have said; None if unknown."""
    ahead = leader_position(view)
    if ahead is None or said is None or said.position is None:
        return None
    return max(0, ahead.lsn - said.position.lsn)


def leader_position(view: EtcdView | None) -> Position | None:
    """Where the leader's log ends, as far as it has said."""
    if view is None or view.leader is None:
        return None
    said = view.members.get(view.leader.name)
    if said is not None and said.position is not None:
        return said.position
    return Position(view.leader.timeline, view.leader.lsn) if view.leader.lsn else None


def table(data: Mapping[str, Any], wide: bool = False) -> str:
    """The rows as chef-backend-ctl prints them; ``wide``: also whom each follows, how far behind, and who may lead."""
    shown = COLUMNS | (ES if data.get("search") else {})
    rows = [[str(row[key]) for key in shown.values()] for row in data["members"]]
    head = list(shown)
    if wide:
        head += WIDE
        rows = [cells + _wide(row) for cells, row in zip(rows, data["members"], strict=True)]
    return columns([head, *rows])


def _wide(row: Mapping[str, Any]) -> list[str]:
    lag, why = row.get("lag_bytes"), row.get("why_not_eligible")
    eligible = "-" if why is None else "no" if why else "yes"
    blocked = {True: "no", False: "yes"}.get(row.get("failover"), "-")  # type: ignore[arg-type]
    return [str(row.get("follows") or "-"), "-" if lag is None else str(lag), eligible, blocked]


def columns(rows: list[list[str]]) -> str:
    """Rows of cells, the widest cell sets the column, two spaces between."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
