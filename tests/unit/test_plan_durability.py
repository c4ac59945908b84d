"""Every way from one rule to another, step by step: at no instant could an election lose an acknowledged write."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from chefha_core.model import SyncRule
from chefha_core.plan import durability
from chefha_core.plan.commands import Command, PublishSync, SetSync

MEMBERS = ("a", "b", "c")
QUORUM = durability.desired(MEMBERS, "quorum")
ASYNC = durability.desired(MEMBERS, "async")
RUNNING = [names for size in range(3) for names in combinations(("b", "c"), size)]


def loses_nothing(elections: SyncRule | None, running: tuple[str, ...]) -> bool:
    """No set of nodes that may elect a leader lacks all nodes on which some acknowledged commit is.

    By counting sets rather than by the formula, so that the formula is tested too. A rule that promises nothing
    (async) cannot be broken.
    """
    if elections is None or not durability.is_safe(elections):
        return True
    if not running:
        return False
    holders = [{"a", name} for name in running]  # any one of those that run acknowledges
    electors = [set(names) for names in combinations(elections.voters, elections.quorum)]
    return all(holder & elector for holder, elector in product(holders, electors))


def step(
    stored: SyncRule | None, running: tuple[str, ...], command: Command
) -> tuple[SyncRule | None, tuple[str, ...]]:
    """What is stored and running after the command."""
    if isinstance(command, PublishSync):
        return command.rule, running
    assert isinstance(command, SetSync)
    return stored, command.sync_names


def test_the_rules_are_what_three_nodes_need() -> None:
    assert SyncRule(MEMBERS, numsync=1, quorum=2) == QUORUM and durability.is_safe(QUORUM)
    assert SyncRule(MEMBERS, numsync=0, quorum=1) == ASYNC and not durability.is_safe(ASYNC)
    assert durability.sync_names(QUORUM, "a") == ("b", "c") and durability.sync_names(ASYNC, "a") == ()


@pytest.mark.parametrize("voters", range(1, 8))
def test_the_formula_says_what_counting_says(voters: int) -> None:
    names = tuple(str(n) for n in range(voters))
    for numsync, quorum in product(range(voters), range(1, voters + 1)):
        holders = [set(x) for x in combinations(names, numsync + 1)]
        electors = [set(x) for x in combinations(names, quorum)]
        counted = all(one & other for one, other in product(holders, electors))
        assert durability.is_safe(SyncRule(names, numsync, quorum)) is counted


@pytest.mark.parametrize("wanted", [QUORUM, ASYNC], ids=["to quorum", "to async"])
@pytest.mark.parametrize("running", RUNNING, ids=lambda names: "+".join(names) or "nobody")
@pytest.mark.parametrize("stored", [None, QUORUM, ASYNC], ids=["none", "quorum", "async"])
def test_f47_every_transition_keeps_the_promise_at_every_step(
    stored: SyncRule | None, running: tuple[str, ...], wanted: SyncRule
) -> None:
    """Wherever it is interrupted: each state on the way is a state from which this same test begins."""
    kept = loses_nothing(stored, running)
    for _ in range(4):
        commands = durability.change(stored, running, wanted, "a")
        if not commands:
            break
        assert len(commands) == 1, "one store at a time"
        stored, running = step(stored, running, commands[0])
        now = loses_nothing(stored, running)
        assert now or not kept, f"{commands[0]} leaves {stored} while PostgreSQL waits for {running}"
        kept = now
    assert (stored, running) == (wanted, durability.sync_names(wanted, "a")), "it arrives"


def test_a_rule_that_is_safe_is_published_only_when_postgresql_keeps_it() -> None:
    assert isinstance(durability.change(ASYNC, (), QUORUM, "a")[0], SetSync)
    assert isinstance(durability.change(ASYNC, ("b", "c"), QUORUM, "a")[0], PublishSync)


def test_a_guarantee_is_given_up_in_etcd_before_postgresql_stops_to_keep_it() -> None:
    assert isinstance(durability.change(QUORUM, ("b", "c"), ASYNC, "a")[0], PublishSync)
    assert isinstance(durability.change(ASYNC, ("b", "c"), ASYNC, "a")[0], SetSync)


@pytest.mark.parametrize("running", RUNNING)
def test_clients_come_only_where_the_rule_is_enforced(running: tuple[str, ...]) -> None:
    assert durability.enforced(QUORUM, running, "a") is (set(running) == {"b", "c"})
    assert durability.enforced(ASYNC, running, "a")
