"""Which service verbs are refused on a member, and why: pure, so that every case is a line of a test."""

from __future__ import annotations

from dataclasses import dataclass

#: what ends PostgreSQL, if only for a moment
ENDS = ("stop", "restart", "term", "kill")
#: the only one that reads its configuration anew at a hang-up; the others would end
KNOWS_HUP = ("postgresql",)
#: through Salt these would cut off their own answer
CUTS_SALT = ("stop", "restart", "term", "kill", "once")


@dataclass(frozen=True)
class Situation:
    """What counts. ``service`` "" means all of ``services``, which are this node's, in the order of a start."""

    verb: str
    service: str
    services: tuple[str, ...]
    running: frozenset[str]
    #: this node is the leader, or nobody can say that it is not
    leads: bool = False
    #: who could take over; None where etcd does not answer
    eligible: tuple[str, ...] | None = ()
    #: the data directory is a follower's: it starts as one whoever starts it
    standby: bool = False
    through_salt: bool = False


def refusal(now: Situation) -> str:
    """Why the verb is refused, "" if it may be carried out."""
    asked = f"{now.verb} {now.service}".strip()
    reason = (
        _unknown(now) or _salt(now) or _all(now) or _postgresql_ends(now) or _postgresql_starts(now) or _others(now)
    )
    return f"{asked}: {reason}" if reason else ""


def _unknown(now: Situation) -> str:
    if now.service and now.service not in now.services:
        return f"no such service on this node; there are {', '.join(now.services)}"
    return ""


def _salt(now: Situation) -> str:
    if now.through_salt and now.service == "salt-minion" and now.verb in CUTS_SALT:
        return f"Salt could not answer any more; run it on the node: chef-backend-ctl {now.verb} salt-minion"
    return ""


def _all(now: Situation) -> str:
    if now.service or now.verb not in ENDS or not now.leads or not now.running & {"leaderl", "postgresql"}:
        return ""
    hand_over = "hand over first: chef-backend-ctl demote, or promote NODE"
    if now.verb != "stop":
        return f"this node leads, and its PostgreSQL is not ended behind leaderl's back; {hand_over}"
    if now.eligible is None:
        return "this node leads, and etcd does not answer, so nobody knows who could take over; try again in a minute"
    if now.eligible:
        return f"this node leads, and {' and '.join(now.eligible)} can take over; {hand_over}"
    return ""  # the last one of a cluster that is being stopped


def _postgresql_ends(now: Situation) -> str:
    if now.service != "postgresql" or now.verb not in ENDS or "postgresql" not in now.running:
        return ""
    if now.leads:
        return (
            "this node leads, and leaderl would take it for a failure; hand over first: chef-backend-ctl demote, or "
            "promote NODE"
        )
    if now.verb == "stop" and "leaderl" in now.running:
        return (
            "leaderl runs and would start it again; stop leaderl first (chef-backend-ctl stop leaderl), or everything "
            "(chef-backend-ctl stop)"
        )
    return ""


def _postgresql_starts(now: Situation) -> str:
    if now.service != "postgresql":
        return ""
    if now.verb == "once":
        return "leaderl keeps it running, systemd never restarts it; use start"
    if now.verb == "start" and "leaderl" not in now.running and not now.standby:
        return (
            "it would start as a primary, which only leaderl may permit; start leaderl, which then decides: "
            "chef-backend-ctl start leaderl"
        )
    return ""


def _others(now: Situation) -> str:
    if now.service == "leaderl" and now.verb == "stop" and now.leads and "leaderl" in now.running:
        return (
            "this node leads, and without leaderl it would lose that within seconds; hand over first: "
            "chef-backend-ctl demote, or promote NODE"
        )
    if now.verb == "hup" and now.service and now.service not in KNOWS_HUP:
        return f"{now.service} would end at a hang-up instead of reading its configuration; use restart"
    if now.verb in ("hup", "term", "kill") and now.service and now.service not in now.running:
        return f"{now.service} does not run; see chef-backend-ctl status"
    return ""
