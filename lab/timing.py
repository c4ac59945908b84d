"""Where the time of a highstate goes, by part, from what the minions answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# First match counts: (part, beginnings of states' ids). What matches none belongs to the last column.
PARTS = (
    ("packages", ("chefha_library", "chefha_packages", "chefha_search_package", "chefha_search_source",
                  "chefha_search_install", "chefha_frontend_package")),
    ("etcd", ("chefha_etcd",)),
    ("PostgreSQL", ("chefha_postgresql", "chefha_leaderl", "chefha_member_healthy")),
    ("search", ("chefha_search",)),
    ("firewall", ("chefha_firewall",)),
    ("front end", ("chefha_frontend",)),
)  # fmt: skip
REST = "rest"
READY = "chefha_member_healthy"
DAY = 86400.0


def of_parts(answer: Any) -> dict[str, float]:
    """Seconds that one minion spent in the states of each part."""
    spent = dict.fromkeys((*(part for part, _ in PARTS), REST), 0.0)
    for name, _, seconds in _states(answer):
        part = next((part for part, beginnings in PARTS if name.startswith(beginnings)), REST)
        spent[part] += seconds
    return spent


def postgresql_ready(answers: Mapping[str, Any]) -> float:
    """Seconds from the last package on the last member until PostgreSQL was whole: the leader with the VIP, and both
    followers streaming. 0 if no member was laid out."""
    rows = [_ends(answer) for answer in answers.values()]
    ready = [row[READY] for row in rows if READY in row]
    installed = [end for row in rows if READY in row for name, end in row.items() if name == "chefha_packages"]
    return (max(ready) - max(installed)) % DAY if ready and installed else 0.0


def table(answers: Mapping[str, Any]) -> str:
    """Seconds by minion and part, for people."""
    columns = [*(part for part, _ in PARTS), REST]
    spent = {minion: of_parts(answer) for minion, answer in sorted(answers.items())}
    columns = [part for part in columns if any(row[part] >= 0.05 for row in spent.values())]
    lines = [f"  {'seconds':<10}" + "".join(f"{part:>12}" for part in columns) + f"{'all':>12}"]
    for minion, row in spent.items():
        cells = [*(row[part] for part in columns), sum(row.values())]
        lines.append(f"  {minion:<10}" + "".join(f"{seconds:>12.1f}" for seconds in cells))
    if ready := postgresql_ready(answers):
        lines.append(f"  PostgreSQL (leader, two followers, VIP) was ready {ready:.1f} s after the packages")
    return "\n".join(lines)


def _ends(answer: Any) -> dict[str, float]:
    """When each state of a minion ended, in seconds of the day."""
    return {name: start + seconds for name, start, seconds in _states(answer)}


def _states(answer: Any) -> Iterator[tuple[str, float, float]]:
    """Id, start (seconds of the day) and duration (s) of each state that was run."""
    for state in answer.values() if isinstance(answer, Mapping) else ():
        if isinstance(state, Mapping) and state.get("start_time"):
            hours, minutes, seconds = str(state["start_time"]).split(":")
            start = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            yield str(state.get("__id__", "")), start, float(state.get("duration") or 0) / 1000
