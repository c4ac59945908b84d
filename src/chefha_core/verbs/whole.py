"""The verbs that concern a whole cluster, as somebody outside of it sees them: its members are asked through Salt, and
what they say becomes one answer. The runner brings the way to ask; nothing here knows Salt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chefha_core.verbs.reach import VerbError

#: what a member's own answer says better than the others, who may not reach it
LIVE = ("role", "search", "vip", "reason", "version")


@dataclass(frozen=True)
class Reply:
    """What came back from one member: data, or why there is none."""

    data: Any = None
    problem: str = ""


#: members, the execution module's function, its keyword arguments -> a reply of each member
Ask = Callable[[Sequence[str], str, Mapping[str, Any]], Mapping[str, Reply]]


class Whole:
    """One cluster. Every method raises VerbError with one sentence."""

    def __init__(self, cluster: str, members: Iterable[str], ask: Ask) -> None:
        self.cluster, self.members, self.ask = cluster, tuple(members), ask

    def cluster_status(self) -> dict[str, Any]:
        """One answer of all members."""
        return merged(self.cluster, self.ask(self.members, "chefha.cluster_status", {}))

    def on_all(self, verb: str, **how: Any) -> dict[str, Any]:
        """The verb on every member: what each said, or ``{"error": why it said nothing}``; VerbError if none did."""
        replies = self.ask(self.members, f"chefha.{verb}", how)
        if all(reply.problem for reply in replies.values()):
            raise VerbError(f"{verb} of {self.cluster}: {_problems(replies)}")
        return {
            name: {"error": reply.problem} if reply.problem else reply.data for name, reply in sorted(replies.items())
        }

    def on_leader(self, verb: str, **how: Any) -> dict[str, Any]:
        """The verb on the leader."""
        status = self.cluster_status()
        if not status["leader"]:
            raise VerbError(f"{verb} of {self.cluster}: it has no leader now; see why with cluster_status")
        return self.on(str(status["leader"]), verb, **how)

    def on_follower(self, verb: str, **how: Any) -> dict[str, Any]:
        """The verb on the follower that is least behind, among those that are well and answer."""
        status = self.cluster_status()
        reasons = {row["name"]: why_no_follower(row, status) for row in status["members"]}
        able = [row for row in status["members"] if not reasons[row["name"]]]
        if not able:
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise VerbError(f"{verb} of {self.cluster}: there is no healthy follower to do it: {why}")
        best = min(able, key=lambda row: (row["lag_bytes"] is None, row["lag_bytes"] or 0, row["name"]))
        return self.on(best["name"], verb, **how)

    def on_newest(self, verb: str, **how: Any) -> dict[str, Any]:
        """The verb on the member whose data are the newest, among those that answer."""
        status = self.cluster_status()
        able = [row for row in status["members"] if row["name"] not in status["unanswered"]]
        return self.on(max(able, key=lambda row: (position(row), row["name"]))["name"], verb, **how)

    def on_any(self, verb: str, but: str = "", **how: Any) -> dict[str, Any]:
        """The verb on the leader if it answers, or else on another one that does, but never on ``but``."""
        status = self.cluster_status()
        able = [row["name"] for row in status["members"] if row["name"] not in {but, *status["unanswered"]}]
        if not able:
            raise VerbError(f"{verb} of {self.cluster}: no member but {but} answers, and it cannot be done there")
        return self.on(min(able, key=lambda name: (name != status["leader"], name)), verb, **how)

    def on(self, member: str, verb: str, **how: Any) -> dict[str, Any]:
        """The verb on one member; what it said, and which it was."""
        if member not in self.members:
            raise VerbError(f"{verb} on {member}: {self.cluster} has no such member; it has {', '.join(self.members)}")
        reply = self.ask([member], f"chefha.{verb}", how)[member]
        if reply.problem:
            raise VerbError(f"{member}: {reply.problem}")
        data = reply.data if isinstance(reply.data, Mapping) else {"answer": reply.data}
        return {**data, "asked_on": member}


def merged(cluster: str, replies: Mapping[str, Reply]) -> dict[str, Any]:
    """What the members say of the cluster as one answer: that of the one who knows most, with each member's own row
    where others do not reach it. ``unanswered``: of whom nothing was heard, and why. VerbError if of nobody. Pure.
    """
    unanswered = {name: reply.problem for name, reply in sorted(replies.items()) if reply.problem}
    answers = {name: reply.data for name, reply in replies.items() if not reply.problem}
    if not answers:
        raise VerbError(f"cluster_status of {cluster}: no member answers: {_problems(replies)}")
    teller = min(answers, key=lambda name: (_ignorance(answers[name]), name))
    told = answers[teller]
    rows = [_own_row(row, told, answers) for row in told["members"]]
    holders = [row["name"] for row in rows if row["vip"]]
    return {
        **told,
        "members": rows,
        "vip": {**told["vip"], "holder": ", ".join(holders) or None},
        "told_by": teller,
        "unanswered": unanswered,
    }


def _ignorance(answer: Mapping[str, Any]) -> tuple[bool, int, int]:
    """How little a member knows: without etcd hardly anything; an older epoch; whom it does not reach."""
    return "etcd" in answer["problems"], -(answer["epoch"] or 0), len(answer["problems"])


def _own_row(row: Mapping[str, Any], told: Mapping[str, Any], answers: Mapping[str, Any]) -> dict[str, Any]:
    name = row["name"]
    own = next((one for one in answers.get(name, {}).get("members", ()) if one["name"] == name), None)
    if own is None or name not in told["problems"] or name in answers[name]["problems"]:
        return dict(row)
    return {**row, **{key: own[key] for key in LIVE}}


def why_no_follower(row: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """Why the member of this row is no healthy follower that can be asked, "" if it is; pure."""
    if row["name"] in status["unanswered"]:
        return str(status["unanswered"][row["name"]])
    if (row["role"], row["pg"]) != ("follower", "follower"):
        return f"role {row['role']}, PostgreSQL {row['pg']}"
    return ""


def position(row: Mapping[str, Any]) -> tuple[int, int]:
    """Timeline and LSN of a row of cluster_status, to compare; pure."""
    high, _, low = str(row["lsn"] or "0/0").partition("/")
    return int(row["timeline"] or 0), (int(high, 16) << 32) + int(low, 16)


def _problems(replies: Mapping[str, Reply]) -> str:
    return "; ".join(f"{name}: {reply.problem}" for name, reply in sorted(replies.items())) or "it has no members"
