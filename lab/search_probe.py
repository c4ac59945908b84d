"""Measure from a client's place what a fault costs search: documents indexed and found through the VIP all along."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .nodes import Machines
from .probe import longest_gap
from .program import FOLDER, SETTLE, Program, put_programs
from .progress import LabError
from .topology import BACKENDS, CLIENT, VIP

MAX_SECONDS = 600.0
MOST_DOCUMENTS = 10_000
MAJORITY = len(BACKENDS) // 2 + 1


@dataclass(frozen=True)
class SearchResult:
    """What the client saw. Times in seconds. `missing` is None where nobody could be asked afterwards."""

    began_at: float
    seconds: float
    attempts: int
    acknowledged: int
    errors: Mapping[str, int]
    longest_gap: float
    longest_gap_at: float
    searches: int
    #: longest time without a search that was answered completely
    longest_silence: float
    #: (when, how many search nodes lived from then on)
    living: Sequence[tuple[float, int]]
    #: how long fewer than a majority of the search nodes lived
    without_majority: float
    missing: Sequence[int] | None

    @property
    def lost(self) -> int:
        """Acknowledged documents that could not be found afterwards. LabError if nobody could look."""
        if self.missing is None:
            raise LabError("search did not answer for all shards after the probe: documents are unchecked")
        return len(self.missing)


@dataclass
class SearchProbe:
    """A running probe; `result` is there once its block is left."""

    _result: SearchResult | None = field(default=None)

    @property
    def result(self) -> SearchResult:
        if self._result is None:
            raise LabError("the search probe is still running: its result is there after its block")
        return self._result


@contextmanager
def running(machines: Machines, seconds: float, interval: float = 0.25) -> Iterator[SearchProbe]:
    """Start the probe, give the block a SearchProbe once a document is acknowledged, stop it after the block.

    `seconds` bounds it even if this program dies; leaving the block ends it sooner. `interval` (s) between documents.
    """
    if not 0 < seconds <= min(MAX_SECONDS, MOST_DOCUMENTS * interval):
        raise LabError(f"a search probe runs for up to {MAX_SECONDS:.0f} s and {MOST_DOCUMENTS} documents")
    run = uuid.uuid4().hex[:8]
    ready, stop = f"{FOLDER}/{run}.search", f"{FOLDER}/{run}.search-stop"
    put_programs(machines, CLIENT)
    job = {
        "vip": VIP, "nodes": [node.address for node in BACKENDS], "seconds": seconds, "interval": interval,
        "settle": SETTLE, "ready": ready, "stop": stop,
    }  # fmt: skip
    program, probe = Program(machines, CLIENT, "search_client", job), SearchProbe()
    program.start()
    try:
        program.await_ready(ready, "no document was indexed through the VIP")
        yield probe
    finally:
        machines.run(CLIENT, ["touch", stop], 10)
        program.join(seconds + 3 * SETTLE)
    probe._result = assess(program.outcome())


def assess(raw: Mapping[str, Any]) -> SearchResult:
    """From what the client noted to what it means. Pure."""
    ends = sorted(at for _, at in raw["acks"])
    first = ends[0] if ends else 0.0  # an index is slow to begin with, which is no outage
    gap, gap_at = longest_gap([at - first for at in ends], raw["seconds"] - first)
    silence, _ = longest_gap(sorted(raw["answered"]), raw["seconds"])
    return SearchResult(
        began_at=raw["began_at"],
        seconds=round(raw["seconds"], 3),
        attempts=raw["attempts"],
        acknowledged=len(raw["acks"]),
        errors=raw["errors"],
        longest_gap=round(gap, 3),
        longest_gap_at=round(first + gap_at, 3),
        searches=raw["searches"],
        longest_silence=round(silence, 3),
        living=[(at, count) for at, count in raw["living"]],
        without_majority=without_majority(raw["living"], raw["seconds"]),
        missing=raw["missing"],
    )


def without_majority(living: Sequence[Sequence[float]], seconds: float) -> float:
    """Seconds in which fewer nodes lived than a majority. Pure."""
    marks = [*living, (max(seconds, living[-1][0] if living else 0.0), 0)]
    spans = itertools.pairwise(marks)
    return round(sum(after[0] - before[0] for before, after in spans if before[1] < MAJORITY), 2)
