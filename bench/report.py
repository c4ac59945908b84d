"""Runs as a table for people, and as JSON with everything in it. Pure, except for the writing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .runs import Run

RESULTS = Path(__file__).parent / "results"
HEADER = (
    "scenario", "runs", "outage min", "median", "max", "forgetful", "lost", "doubles", "old leader", "whole again",
)  # fmt: skip
#: share of the cores that is busy before a run, from which on its numbers say little of the product
BUSY = 0.6
LEGEND = (
    "outage: longest time (s) without an acknowledged write, a write every 10 ms over a new connection through the VIP",
    "forgetful: the same (s, longest of all runs) for a writer that forgets the VIP's ARP entry before each write",
    "lost: acknowledged writes that were gone; doubles: ARP probes that two hosts answered; old leader: writes that an",
    "old leader acknowledged after a new one; whole again: from healing to a whole cluster (s, longest of all runs)",
)


def table(runs: Sequence[Run]) -> str:
    """A line per product and scenario, in the order in which they were run."""
    several = len({run.subject for run in runs}) > 1
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(f"{run.subject}: {run.scenario}" if several else run.scenario, []).append(run)
    rows = [HEADER, *(_row(name, group) for name, group in groups.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([*lines, "", *LEGEND, *_busy(runs)])


def _busy(runs: Sequence[Run]) -> list[str]:
    """A warning where something else than the lab used the machine."""
    count = sum(run.busy_before is not None and run.busy_before > BUSY for run in runs)
    warning = (
        f"before {count} of these runs more than {BUSY:.0%} of the cores were busy with other things: no fair numbers"
    )
    return ["", warning] if count else []


def _row(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    good = [run for run in runs if not run.error]
    count = f"{len(good)}" if len(good) == len(runs) else f"{len(good)} of {len(runs)}"
    outages = [run.outage for run in good if run.outage is not None]
    forgetful = [run.forgetful_outage for run in good if run.forgetful_outage is not None]
    whole = [run.converged_after for run in good if run.converged_after is not None]
    return (
        name,
        count,
        _seconds(outages, min),
        _seconds(outages, statistics.median),
        _seconds(outages, max),
        _seconds(forgetful, max),
        _total([run.lost for run in good]),
        _total([run.doubles for run in good]),
        _total([run.by_old_leader for run in good]),
        _seconds(whole, max),
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = (
        cell.ljust(width) if not n else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return [first, *others]


def _seconds(values: Sequence[float], of: Any) -> str:
    return f"{of(values):.2f}" if values else "-"


def _total(values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    return str(sum(known)) if known else "-"


def progress(run: Run, of: int) -> str:
    """One line when a run is over."""
    head = f"{run.subject}: {run.scenario:<18} {run.number + 1} of {of}"
    if run.error:
        return f"{head}  FAILED: {run.error.splitlines()[0]}"
    return (
        f"{head}  {run.outage:7.3f} s  forgetful {run.forgetful_outage:7.3f} s  lost {run.lost}  "
        f"doubles {run.doubles}  old leader {run.by_old_leader}  {run.leader} -> {run.new_leader}  "
        f"whole again after {run.converged_after} s"
    )


def status_lines(times: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The status's times in seconds, for people."""
    lines = []
    for subject, found in times.items():
        for what, values in found.items():
            middle = f"{min(values):.3f} / {statistics.median(values):.3f} / {max(values):.3f}"
            lines.append(f"cluster status of {subject}, {what}: {middle} s (min / median / max of {len(values)})")
    return "\n".join(lines)


def write(name: str, head: Mapping[str, Any], runs: Sequence[Run], status: Mapping[str, Any]) -> Path:
    """Everything as JSON; the file's path. Written again after each run, so that a broken bench loses nothing."""
    return store(name, {**head, "cluster_status_seconds": status, "runs": [asdict(run) for run in runs]})


def store(name: str, tree: Mapping[str, Any]) -> Path:
    """All numbers of a bench as JSON; the file's path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    return path
