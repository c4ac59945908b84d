"""upgrade of a whole cluster: every member by its own verb ``upgrade``, the followers first, the leader last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.steps import OnStep, nobody_looks
from chefha_core.verbs.whole import Reply, Whole


class Stopped(VerbError):
    """It ended on the way; ``data`` says how far it came."""

    def __init__(self, text: str, steps: list[dict[str, Any]]) -> None:
        super().__init__(text)
        self.data = {"steps": steps}


def upgrade(whole: Whole, packages: bool, timeout: float, on_step: OnStep = nobody_looks) -> dict[str, Any]:
    """Followers one by one, hand-over, the old leader; ends at the first that fails. Stopped, or VerbError if it was
    refused before anything was touched.
    """
    asked = f"upgrade of {whole.cluster}"
    began, steps = time.monotonic(), list[dict[str, Any]]()

    def passed(node: str, step: str, outcome: str = "done", at: float | None = None) -> None:
        seconds = time.monotonic() - began if at is None else at
        row = {"node": node, "step": step, "seconds": round(seconds, 1), "outcome": outcome}
        steps.append(row)
        on_step(row)

    order = _order(asked, whole.ask(whole.members, "chefha.upgrade", {"check": True}))
    passed(", ".join(whole.members), "the cluster is well")
    changed = []
    for number, name in enumerate(order):
        how = {"failover": number == len(order) - 1, "packages": packages, "timeout": timeout}
        asked_at = time.monotonic() - began
        reply = whole.ask([name], "chefha.upgrade", how)[name]
        if reply.problem:
            passed(name, "upgrade", "failed")
            for later in order[number + 1 :]:
                passed(later, "upgrade", "not reached")
            raise Stopped(f"{asked} stopped at {name}: {reply.problem}; {_what_now(order, number)}", steps)
        for step in reply.data["steps"]:
            passed(name, step["step"], step["outcome"], asked_at + step["seconds"])
        if reply.data["changed"]:
            changed.append(name)
    comment = "" if changed else "every member was so already: nothing changed"
    return {"changed": changed, "order": order, "seconds": steps[-1]["seconds"], "steps": steps, "comment": comment}


def _order(asked: str, replies: Mapping[str, Reply]) -> list[str]:
    """The members, the leader last; VerbError if any of them does not answer or does not find the cluster well."""
    why = [f"{name}: {reply.problem}" for name, reply in sorted(replies.items()) if reply.problem]
    if why:
        raise VerbError(f"{asked} was refused before anything was touched: {'; '.join(why)}")
    leaders = {str(reply.data["leader"]) for reply in replies.values()}
    if len(leaders) != 1:
        raise VerbError(f"{asked} was refused before anything was touched: the leader is changing just now; try again")
    return sorted(replies, key=lambda name: (name in leaders, name))


def _what_now(order: list[str], number: int) -> str:
    before, after = ", ".join(order[:number]), ", ".join(order[number + 1 :])
    said = [f"{before} done before it"] if before else []
    said += [f"{after} not touched"] if after else []
    return f"{', '.join(said)}; mend it and call upgrade again: it goes on from there"
