"""cluster-status on a front end: what can be known through the two ports that it reaches, PostgreSQL and search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from chefha_core.model import format_lsn
from chefha_core.parts import front_door
from chefha_core.settings import Settings

#: everything in one answer; the monitoring role sees replication and no data
LOOK = """
select json_build_object(
  'name', current_setting('cluster_name'),
  'timeline', ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,
  'lsn', (pg_current_wal_lsn() - '0/0')::bigint,
  'standbys', (select json_agg(json_build_object(
      'name', application_name, 'state', state, 'lsn', (flush_lsn - '0/0')::bigint)) from pg_stat_replication))
"""
HEALTH, NODES = "/_cluster/health", "/_cat/nodes?format=json&h=name,ip,master"


def ask(settings: Settings, deadline: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Answers of PostgreSQL and search, and why one is missing; all at the same time."""
    from chefha_core.verbs.cluster_status import gather  # which chooses between itself and this page

    questions: dict[str, Callable[[], Any]] = {"postgresql": lambda: _look(settings, deadline)}
    if settings.search.flavor != "none":
        questions["search"] = lambda: front_door.search(settings, HEALTH, deadline)
        questions["search nodes"] = lambda: front_door.search(settings, NODES, deadline)
    return gather(questions, deadline)


def _look(settings: Settings, deadline: float) -> dict[str, Any]:
    until = time.monotonic() + deadline
    user, password = settings.postgresql.monitoring_user, settings.secrets.monitoring_password
    with front_door.primary(settings, user, password, until) as (address, session):
        found: dict[str, Any] = session.rows(LOOK, until)[0][0]
        return {**found, "address": address}


def report(settings: Settings, answers: Mapping[str, Any], problems: Mapping[str, str]) -> dict[str, Any]:
    """The same shape that a member reports; None and "-" are what only members know. Pure."""
    pg, health = answers.get("postgresql") or {}, answers.get("search") or {}
    leader = pg.get("name")
    through_vip = leader if pg.get("address") == settings.vip else None
    return {
        "cluster": settings.cluster,
        "leader": leader,
        "leader_state": "leading" if leader else None,
        "epoch": None,
        "vip": {"address": settings.vip, "holder": through_vip},
        "failover": None,
        "durability": settings.durability,
        "voters": [],
        "handover_asked": None,
        "search": {"status": health.get("status"), "nodes": health.get("number_of_nodes")},
        "members": [_row(settings, name, pg, answers.get("search nodes")) for name in settings.members],
        "problems": dict(problems),
    }


def _row(settings: Settings, name: str, pg: Mapping[str, Any], nodes: list[Mapping[str, Any]] | None) -> dict[str, Any]:
    """One member as the leader and the search see it."""
    standbys = {standby["name"]: standby for standby in pg.get("standbys") or []}
    leads, standby = bool(pg) and pg["name"] == name, standbys.get(name)
    if leads:
        role, word, reason = "leader", "leader", "PostgreSQL says so"
    elif standby:
        role, word = "follower", "follower" if standby["state"] == "streaming" else "syncing"
        reason = f"{pg['name']} says: {standby['state']}"
    else:
        role, word = "-", "-"
        reason = f"does not follow {pg['name']}; more can be seen on a member" if pg else "PostgreSQL did not answer"
    lsn = pg["lsn"] if leads else standby["lsn"] if standby else None
    return {
        "name": name,
        "ip": str(settings.members[name]),
        "guid": "-",
        "role": role,
        "pg": word,
        "search": _search_word(name, str(settings.members[name]), nodes),
        "vip": leads and pg["address"] == settings.vip,
        "lag_bytes": None if lsn is None else max(0, pg["lsn"] - lsn),
        "timeline": pg["timeline"] if leads or word == "follower" else None,
        "lsn": None if lsn is None else format_lsn(lsn),
        "failover": None,
        "reason": reason,
        "version": None,
    }


def _search_word(name: str, address: str, nodes: list[Mapping[str, Any]] | None) -> str:
    """The three words for a member's search."""
    if nodes is None:
        return "-"
    own = next((node for node in nodes if name == node.get("name") or address == node.get("ip")), None)
    if own is None:
        return "offline"
    return "master" if own.get("master") == "*" else "not_master"
