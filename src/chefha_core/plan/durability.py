"""Who must acknowledge a commit, and how many must assert before one of them may lead.

With n voters, a commit that is acknowledged is on the leader and on ``numsync`` others. An election in which
``quorum`` voters assert what they hold includes one of these nodes as long as

    quorum + (numsync + 1) > n

So the most advanced of those that assert holds every acknowledged commit. ``is_safe`` is that line, and every change
of the rule goes through rules for which it holds at every instant: what PostgreSQL enforces may be stricter than the
rule in etcd, never laxer.
"""

from __future__ import annotations

from collections.abc import Iterable

from chefha_core.model import SyncRule
from chefha_core.plan.commands import Command, PublishSync, SetSync


def desired(members: Iterable[str], durability: str) -> SyncRule:
    """The rule for these members; ``async`` waits for nobody, and one node may then lead alone."""
    voters = tuple(sorted(members))
    if durability == "async":
        return SyncRule(voters, numsync=0, quorum=1)
    majority = len(voters) // 2 + 1
    return SyncRule(voters, numsync=len(voters) - majority, quorum=majority)


def is_safe(rule: SyncRule) -> bool:
    """True if no election under this rule can lose an acknowledged commit."""
    return rule.quorum + rule.numsync + 1 > len(rule.voters)


def alone(name: str) -> SyncRule:
    """The rule while nobody but ``name`` has the data: it waits for nobody, and nobody else can be elected."""
    return SyncRule((name,), numsync=0, quorum=1)


def sync_names(rule: SyncRule, leader: str) -> tuple[str, ...]:
    """The standbys that PostgreSQL on ``leader`` waits for, any ``numsync`` of them."""
    return tuple(name for name in rule.voters if name != leader) if rule.numsync else ()


def enforced(rule: SyncRule, running: tuple[str, ...], leader: str) -> bool:
    """True if PostgreSQL on ``leader`` acknowledges only what ``rule`` counts on; before that it gets no clients."""
    return leader in rule.voters and (not rule.numsync or set(running) == set(sync_names(rule, leader)))


def change(
    stored: SyncRule | None, running: tuple[str, ...], wanted: SyncRule, leader: str, covered: bool | None = True
) -> list[Command]:
    """The next step from the rule in etcd and the one PostgreSQL runs towards ``wanted``; [] when there, or waiting.

    ``covered``: whether what was acknowledged before PostgreSQL began to wait is on a second node of ``wanted``, None
    if it is not known since when it waits. Before that an election without the leader could lose it.
    """
    names = sync_names(wanted, leader)
    laxer = stored is not None and wanted.numsync < stored.numsync
    if stored != wanted and (laxer or not is_safe(wanted)):
        return [PublishSync("the guarantee is given up in etcd before PostgreSQL stops to keep it", wanted)]
    unproven = stored is not None and stored != wanted and not covered
    if running != names or (unproven and covered is None):
        return [SetSync(f"PostgreSQL shall wait for {' or '.join(names) or 'nobody'}", names)]
    if stored != wanted and not unproven:
        return [PublishSync("the rule in etcd follows what PostgreSQL enforces", wanted)]
    return []
