"""On what the numbers were measured."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from lab.api import Lab
from lab.engine import connect


def machine() -> dict[str, Any]:
    """Cores, memory and kernel of the machine that the whole lab shares, and its engine."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "memory": _field(Path("/proc/meminfo"), "MemTotal"),
        "kernel": platform.release(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "engine": str(connect().version().get("Version", "?")),
    }


def busy_share(seconds: float = 1.0) -> float:
    """Which share of all cores is busy now, 0 to 1, measured for so long: the lab at rest, and whatever else runs."""
    before = _cpu_times()
    time.sleep(seconds)
    idle, total = (after - then for after, then in zip(_cpu_times(), before, strict=True))
    return round(1 - idle / max(total, 1), 2)


def _cpu_times() -> tuple[int, int]:
    """Idle and all ticks of all cores since the machine booted."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def stack(lab: Lab) -> dict[str, Any]:
    """What the running lab was asked to be."""
    return lab.machines.stack() or {}


def _field(path: Path, name: str) -> str:
    for line in path.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "?"
