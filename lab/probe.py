"""Measure from a client's place what a fault costs: writes through the VIP all along, and who answers for the VIP.

Three programs run in two machines (lab/inside): the writer in `client`; in `watch` the ARP watch, and a second, slower
writer that forgets the VIP's ARP entry before each write: there, so that the first writer's entry is left alone.
"""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from .nodes import Machines
from .program import FOLDER, SETTLE, Program, put_programs
from .progress import LabError
from .topology import BACKENDS, CLIENT, INTERFACE, VIP, WATCH, Node

MAX_SECONDS = 600.0
FORGETFUL_INTERVAL = 0.1
SUMMARY_WIDTH = 42
SETTINGS = "/etc/chefha/settings.json"


@dataclass(frozen=True)
class Acknowledged:
    """One acknowledged write. Times in seconds since the writer began."""

    number: int
    start: float
    end: float
    node: str
    timeline: int


@dataclass(frozen=True)
class Reign:
    """An unbroken run of writes acknowledged by one node on one timeline; `before` is the gap in front of it (s)."""

    node: str
    timeline: int
    first: float
    last: float
    writes: int
    before: float


@dataclass(frozen=True)
class Writer:
    """What one writer saw. `missing` is None where no primary could be read from afterwards."""

    began_at: float
    seconds: float
    attempts: int
    acknowledged: int
    errors: Mapping[str, int]
    skipped: int
    longest_gap: float
    longest_gap_at: float
    missing: Sequence[int] | None
    by_old_leader: int
    reigns: Sequence[Reign]
    cpu_share: float


@dataclass(frozen=True)
class Arp:
    """What the ARP watch saw: `doubles` counts probes that two hosts answered."""

    probes: int
    unanswered: int
    doubles: int
    announcements: int
    conflicts: Sequence[Mapping[str, Any]]
    holders: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class ProbeResult:
    """Everything a probe measured; `began_at` is the wall clock (s) at the writer's first attempt."""

    began_at: float
    writer: Writer
    forgetful: Writer
    arp: Arp

    @property
    def longest_gap(self) -> float:
        """Longest time (s) without an acknowledged write."""
        return self.writer.longest_gap

    @property
    def lost(self) -> int:
        """Acknowledged writes, of both writers, that were not there afterwards. LabError if nobody could look."""
        if self.writer.missing is None or self.forgetful.missing is None:
            raise LabError("no primary could be read from after the probe: acknowledged writes are unchecked")
        return len(self.writer.missing) + len(self.forgetful.missing)

    @property
    def by_old_leader(self) -> int:
        """Writes acknowledged by an old leader after a new one had acknowledged some."""
        return self.writer.by_old_leader + self.forgetful.by_old_leader

    def as_json(self) -> str:
        """For people and other programs."""
        return json.dumps(asdict(self), indent=2)


@dataclass
class Probe:
    """A running probe; `result` is there once its block is left."""

    seconds: float
    stop_file: str
    _result: ProbeResult | None = field(default=None)

    @property
    def result(self) -> ProbeResult:
        if self._result is None:
            raise LabError("the probe is still running: its result is there after its block")
        return self._result


@contextmanager
def running(
    machines: Machines, seconds: float = 20.0, interval: float = 0.01, account: tuple[str, str] | None = None
) -> Iterator[Probe]:
    """Start the probe, give the block a Probe once writes are acknowledged, stop it after the block.

    `seconds` bounds it even if this program dies; leaving the block ends it sooner. `interval` (s) between writes.
    `account`: role and password, by default the front ends'.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise LabError(f"a probe runs for up to {MAX_SECONDS:.0f} s, not {seconds:g}")
    user, password = account or login(machines)
    run = uuid.uuid4().hex[:8]
    stop = f"{FOLDER}/{run}.stop"
    for node in (CLIENT, WATCH):
        put_programs(machines, node)
    common = {"vip": VIP, "user": user, "interface": INTERFACE, "seconds": seconds, "settle": SETTLE, "stop": stop}
    probe = Probe(seconds, stop)
    programs = []

    def start(node: Node, file: str, job: Mapping[str, Any], ready: str) -> Program:
        program = Program(machines, node, file, {**job, "ready": ready}, password)
        program.start()
        programs.append(program)
        program.await_ready(ready, "no write went through the VIP")
        return program

    try:
        writer = start(CLIENT, "probe_client", {**common, "interval": interval}, f"{FOLDER}/{run}.writer")
        slow = {**common, "interval": FORGETFUL_INTERVAL, "lane": 1, "forget": True}
        forgetful = start(WATCH, "probe_client", slow, f"{FOLDER}/{run}.forgetful")
        watch = {"vip": VIP, "interface": INTERFACE, "own": WATCH.address, "seconds": seconds, "stop": stop}
        arp = start(WATCH, "arpwatch", watch, f"{FOLDER}/{run}.arp")
        yield probe
    finally:
        for node in (CLIENT, WATCH):
            machines.run(node, ["touch", stop], 10)
        for program in programs:
            program.join(seconds + 3 * SETTLE)
    written = writer.outcome()
    probe._result = ProbeResult(written["began_at"], assess(written), assess(forgetful.outcome()), _arp(arp.outcome()))
    dropping = Program(machines, CLIENT, "probe_client", {**common, "action": "drop", "settle": 10}, password)
    dropping.start()
    dropping.join(30)


def run_for(machines: Machines, seconds: float) -> ProbeResult:
    """Probe for this many seconds with nothing else going on."""
    with running(machines, seconds) as probe:
        time.sleep(seconds)
    return probe.result


def assess(raw: Mapping[str, Any]) -> Writer:
    """From what a writer noted to what it means. Pure."""
    acks = sorted((Acknowledged(*ack) for ack in raw["acks"]), key=lambda ack: ack.end)
    gap, gap_at = longest_gap([ack.end for ack in acks], raw["seconds"])
    return Writer(
        began_at=raw["began_at"],
        seconds=round(raw["seconds"], 3),
        attempts=raw["attempts"],
        acknowledged=len(acks),
        errors=raw["errors"],
        skipped=raw["skipped"],
        longest_gap=round(gap, 3),
        longest_gap_at=round(gap_at, 3),
        missing=raw["missing"],
        by_old_leader=by_old_leader(acks),
        reigns=reigns(acks),
        cpu_share=round(raw["cpu_seconds"] / max(raw["seconds"], 0.001), 3),
    )


def longest_gap(ends: Sequence[float], seconds: float) -> tuple[float, float]:
    """Longest time (s) without an acknowledgement and when it began, counting from the start and to the end."""
    marks = [0.0, *ends, max(seconds, ends[-1] if ends else 0.0)]
    return max((later - earlier, earlier) for earlier, later in itertools.pairwise(marks))


def by_old_leader(acks: Sequence[Acknowledged]) -> int:
    """Acknowledgements on a timeline lower than one that was acknowledged before their attempt had started."""
    by_end = sorted(acks, key=lambda ack: ack.end)
    count, newest, at = 0, 0, 0
    for ack in sorted(acks, key=lambda ack: ack.start):
        while at < len(by_end) and by_end[at].end < ack.start:
            newest = max(newest, by_end[at].timeline)
            at += 1
        count += ack.timeline < newest
    return count


def reigns(acks: Sequence[Acknowledged]) -> list[Reign]:
    """Who acknowledged when: consecutive acknowledgements of one node and timeline as one entry."""
    found: list[Reign] = []
    for ack in acks:
        last = found[-1] if found else None
        if last and (last.node, last.timeline) == (ack.node, ack.timeline):
            found[-1] = Reign(last.node, last.timeline, last.first, ack.end, last.writes + 1, last.before)
        else:
            found.append(
                Reign(ack.node, ack.timeline, ack.end, ack.end, 1, round(ack.end - (last.last if last else 0.0), 4))
            )
    return found


def summary(result: ProbeResult) -> str:
    """The result in lines for people."""
    lines: list[tuple[str, object]] = []
    for name, writer in (("writer", result.writer), ("forgetful writer", result.forgetful)):
        missing = "unknown" if writer.missing is None else len(writer.missing)
        lines += [
            (f"{name}: attempts / acknowledged", f"{writer.attempts} / {writer.acknowledged}"),
            (f"{name}: longest gap", f"{writer.longest_gap:.3f} s, from {writer.longest_gap_at:.3f} s"),
            (f"{name}: acknowledged but missing", missing),
            (f"{name}: acknowledged by an old leader", writer.by_old_leader),
            (f"{name}: errors", ", ".join(f"{kind}: {n}" for kind, n in writer.errors.items()) or "none"),
        ]
    lines.append(("probes two hosts answered for the VIP", f"{result.arp.doubles} of {result.arp.probes}"))
    for reign in result.writer.reigns:
        words = f"{reign.first:.3f} to {reign.last:.3f} s, {reign.writes} writes, after a gap of {reign.before:.3f} s"
        lines.append((f"{reign.node} on timeline {reign.timeline}", words))
    return "\n".join(f"{what:<{SUMMARY_WIDTH}} {value}" for what, value in lines)


def _arp(raw: Mapping[str, Any]) -> Arp:
    holders = [(float(at), str(mac)) for at, mac in raw["holders"]]
    return Arp(raw["probes"], raw["unanswered"], raw["doubles"], raw["announcements"], raw["conflicts"], holders)


def login(machines: Machines) -> tuple[str, str]:
    """The front ends' role and password, from the settings that the states wrote on a member that runs."""
    for node in BACKENDS:
        found = machines.find(node)
        if found is None or found.status != "running":
            continue
        ran = machines.run(node, ["cat", SETTINGS], 10)
        if ran.rc == 0:
            tree = json.loads(ran.out)
            return str(tree["postgresql"]["db_superuser"]), str(tree["secrets"]["superuser_password"])
    raise LabError(f"no member that runs has {SETTINGS}: the states were not applied (`python -m lab up`)")
