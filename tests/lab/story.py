"""One fault under write load, and the five points that hold after every one of them.

with under_load(lab) as story:
    story.inject("kill-host", story.leader)
    story.await_new_leader()

Leaving the block heals everything, waits until the cluster is whole again by itself, ends the probe, and asserts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from lab.api import Lab, ProbeResult, SearchResult
from lab.witness import Seen, Witness, in_words, others, vip_problems

#: seconds without an acknowledged write that a failover may cost at most; what it really costs is bench's business
OUTAGE = 30.0
#: the same where nobody needs to take over
HICCUP = 20.0
#: seconds within which a healed cluster is whole again, and within which it must be whole before a fault
CONVERGED = 90.0
WHOLE_BEFORE = 45.0
#: seconds within which search has all its nodes again, and all copies of all documents: three Javas start on two cores
SEARCH_CONVERGED = 180.0
#: seconds a probe may last at the most, should the test hang
PROBE = 240.0
#: seconds without an acknowledged document that a fault may cost: search finds out by itself that a node is away
SEARCH_GAP = 60.0
#: seconds between two writes of the probe: enough to see what a fault costs, and the machines have two cores
INTERVAL = 0.04
#: seconds between two looks at all machines: each costs the two cores they share more than a write does
PAUSE = 1.5


@dataclass
class Story:
    """A cluster under write load, and what becomes of it."""

    lab: Lab
    witness: Witness
    leader: str
    epoch: int
    outage: float
    #: what was seen of the VIP while the fault lasted and should not have been
    unsettling: list[str] = field(default_factory=list)
    new_leader: str = ""
    faulty: set[str] = field(default_factory=set)
    #: all that were ever made to fail
    struck: set[str] = field(default_factory=set)
    converged_after: float = 0.0
    search: SearchResult | None = None
    _result: ProbeResult | None = None

    @property
    def followers(self) -> list[str]:
        """The two that do not lead when the story begins."""
        return others(self.leader)

    @property
    def result(self) -> ProbeResult:
        """What the probe measured, once the block is left."""
        assert self._result is not None, "the probe is still running"
        return self._result

    def inject(self, kind: str, node: str) -> None:
        """Make a node fail; healed when the story ends, if not before."""
        self.faulty.add(node)
        self.struck.add(node)
        self.lab.fault(kind, node)

    def heal(self) -> None:
        """Undo what was injected, on all machines at once."""
        with ThreadPoolExecutor(max(1, len(self.faulty))) as pool:
            list(pool.map(self.lab.heal, sorted(self.faulty)))
        self.faulty.clear()

    def await_new_leader(self, timeout: float = 2 * OUTAGE) -> str:
        """Wait until another one leads behind the VIP, and look who has the VIP at this moment."""
        self.new_leader = self.witness.await_new_leader(self.leader, timeout)
        self.check_vip()
        return self.new_leader

    def await_writes_again(self, timeout: float = 2 * OUTAGE) -> None:
        """Wait until a node, whichever, takes writes and has the VIP."""
        whole = poll(lambda: not vip_problems(self.witness.look()), timeout)
        assert whole, f"no writes through the VIP within {timeout:g} s\n{in_words(self.witness.look())}"

    def stays(self, seconds: float) -> None:
        """For so long nobody else takes over: neither another leader nor another epoch."""

        def changed() -> bool:
            rows = [row for row in self.witness.look() if row.reachable and row.role]
            new = sorted({row.epoch for row in rows} - {self.epoch, 0})
            assert not new, f"a needless failover to epoch {new}\n{in_words(rows)}"
            return False

        poll(changed, seconds)

    def check_vip(self) -> None:
        """Note what is wrong with the VIP now, unless it is right at a second look: two looks are never one instant."""
        for _ in range(2):
            rows = self.witness.look()
            problems = vip_problems(rows)
            if not problems:
                return
        self.unsettling.append(f"{'; '.join(problems)}\n{in_words(rows)}")


@contextmanager
def under_load(lab: Lab, outage: float = OUTAGE, account: tuple[str, str] | None = None) -> Iterator[Story]:
    """A whole cluster, writes through the VIP (as `account`) while the block runs, and the five points after it."""
    witness = Witness(lab.machines)
    witness.await_converged(WHOLE_BEFORE)
    searches = lab.stack.search != "none"
    if searches:
        witness.await_search(timeout=SEARCH_CONVERGED)
    rows = witness.look()
    story = Story(lab, witness, leader_of(rows), max(row.epoch for row in rows), outage)
    try:
        with ExitStack() as probes:
            probe = probes.enter_context(lab.probe(PROBE, INTERVAL, account))
            search = probes.enter_context(lab.search_probe(PROBE)) if searches else None
            yield story
            story.heal()
            story.converged_after = witness.await_converged(CONVERGED)
            story.check_vip()
            if search:
                witness.await_search(timeout=SEARCH_CONVERGED)
    finally:
        story.heal()
    story._result = probe.result
    story.search = search.result if search else None
    assert_five_points(story)


def assert_five_points(story: Story) -> None:
    """What holds whatever fails."""
    result = story.result
    doubles = f"two hosts answered for the VIP: {result.arp.conflicts}"
    assert result.arp.doubles == 0, f"(a) {doubles}"
    assert result.by_old_leader == 0, f"(a) an old leader acknowledged writes after a new one: {result.writer.reigns}"
    assert result.lost == 0, f"(b) acknowledged writes are lost: {result.writer.missing} {result.forgetful.missing}"
    assert result.longest_gap <= story.outage, (
        f"(c) {result.longest_gap:.1f} s without an acknowledged write, from {result.writer.longest_gap_at:.1f} s on; "
        f"at most {story.outage:g} s are bearable: {result.writer.reigns}"
    )
    assert story.converged_after <= CONVERGED, "(d) the cluster did not become whole by itself"
    assert not story.unsettling, f"(e) the VIP was not on the writable leader only: {story.unsettling}"
    if story.search:
        if len(story.struck) > 1 and story.search.without_majority:
            return  # one machine alone takes no majority away, whatever the probe thinks of slow answers
        assert_search_goes_on(story.search, max(SEARCH_GAP, story.outage))  # both come through the VIP


def assert_search_goes_on(search: SearchResult, bearable: float) -> None:
    """What holds where a majority of search nodes lives: no acknowledged document is lost, new ones come in again, and
    what is there is found."""
    assert search.lost == 0, f"(f) acknowledged documents are lost: {search.missing}"
    assert search.longest_gap <= bearable, (
        f"(f) {search.longest_gap:.1f} s without an acknowledged document, from {search.longest_gap_at:.1f} s on; "
        f"at most {bearable:g} s are bearable: {search.errors}"
    )
    assert search.longest_silence <= bearable, (
        f"(f) {search.longest_silence:.1f} s without an answered search; at most {bearable:g} s are bearable"
    )


def leader_of(rows: Sequence[Seen]) -> str:
    """The one that has the VIP and takes writes."""
    [leader] = [row.name for row in rows if row.vip and row.writable]
    return leader


def poll(question: Callable[[], bool], timeout: float) -> bool:
    """Ask until the answer is yes or time is up; whether it was yes."""
    deadline = time.monotonic() + timeout
    while not question():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True
