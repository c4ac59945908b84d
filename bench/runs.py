"""One run: a whole cluster, a probe, a fault, the healing, and the numbers. Nothing is judged here."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lab.api import Lab, LabError
from lab.probe import ProbeResult
from lab.witness import others

from .scenarios import Scenario, Target
from .subject import Chefha, Subject
from .surroundings import busy_share

WHOLE_TIMEOUT = 120.0
TAKE_OVER_TIMEOUT = 60.0
#: writes before the fault (s), so that the gap is one between writes
LEAD_IN = 1.5
PROBE_SECONDS = 300.0


@dataclass(frozen=True)
class Run:
    """One run's numbers. `error` says why there are none; times in seconds."""

    subject: str
    scenario: str
    number: int
    error: str = ""
    leader: str = ""
    new_leader: str = ""
    outage: float | None = None
    forgetful_outage: float | None = None
    lost: int | None = None
    doubles: int | None = None
    by_old_leader: int | None = None
    converged_after: float | None = None
    #: share of the cores that was busy before the probe began
    busy_before: float | None = None
    #: what the product says of the change, and everything the probe measured
    notes: dict[str, Any] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)


def carry_out(lab: Lab, subject: Subject, scenario: Scenario, number: int) -> Run:
    """One run; a failure of the lab or the product is a run with an error, and everything is healed after it."""
    struck: list[str] = []
    try:
        return _measured(lab, subject, scenario, number, struck)
    except LabError as error:
        return Run(subject.name, scenario.name, number, error=str(error))
    finally:
        _heal(lab, struck)


def _measured(lab: Lab, subject: Subject, scenario: Scenario, number: int, struck: list[str]) -> Run:
    subject.await_whole(WHOLE_TIMEOUT)
    busy = busy_share()
    leader = subject.leader()
    # Turn by turn, so that each node is struck and each leads.
    follower = others(leader)[number % 2]
    notes: dict[str, Any] = {}
    with lab.probe(PROBE_SECONDS) as probe:
        time.sleep(LEAD_IN)
        for kind, target in scenario.faults:
            node = target.node(leader, follower)
            struck.append(node)
            lab.fault(kind, node)
        new_leader = leader
        if scenario.hand_over:
            notes["hand_over"] = dict(subject.hand_over(follower))
            new_leader = follower
        elif scenario.takes_over:
            new_leader = subject.await_new_leader(leader, TAKE_OVER_TIMEOUT)
        else:
            time.sleep(scenario.seconds)
        healed_at = time.monotonic()
        _heal(lab, struck)
        subject.await_whole(WHOLE_TIMEOUT)
        converged_after = round(time.monotonic() - healed_at, 1)
        new_leader = subject.leader()
        notes["leader"] = dict(subject.notes(new_leader))
    begun = Run(
        subject.name,
        scenario.name,
        number,
        leader=leader,
        new_leader=new_leader,
        converged_after=converged_after,
        busy_before=busy,
        notes=notes,
    )
    return _with_numbers(begun, probe.result)


def _with_numbers(run: Run, result: ProbeResult) -> Run:
    return replace(
        run,
        outage=result.longest_gap,
        forgetful_outage=result.forgetful.longest_gap,
        lost=result.lost,
        doubles=result.arp.doubles,
        by_old_leader=result.by_old_leader,
        probe=asdict(result),
    )


def _heal(lab: Lab, struck: list[str]) -> None:
    if struck:
        with ThreadPoolExecutor(len(struck)) as pool:
            list(pool.map(lab.heal, struck))
    struck.clear()


def status_times(lab: Lab, subject: Chefha, times: int) -> dict[str, list[float]]:
    """chefha's status, asked on the leader: of a whole cluster, and with a member without power."""
    subject.await_whole(WHOLE_TIMEOUT)
    leader = subject.leader()
    found = {"whole": subject.status_seconds(leader, times)}
    victim = Target.FOLLOWER.node(leader, others(leader)[0])
    try:
        lab.fault("kill-host", victim)
        found["member down"] = subject.status_seconds(leader, times)
    finally:
        lab.heal(victim)
    subject.await_whole(WHOLE_TIMEOUT)
    return found
