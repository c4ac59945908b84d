"""What the settings say to the planner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chefha_core.model import SyncRule
from chefha_core.plan import durability
from chefha_core.plan.timing import Timing, timing
from chefha_core.settings import Settings


@dataclass(frozen=True)
class Policy:
    """Members, times and habits, all of them from the pillar."""

    members: Mapping[str, str]
    times: Timing
    durability: str
    restart_in_place: str
    restart_max_redo: int
    max_behind: int
    #: a member whose search is offline must not lead
    search_fatal: bool = False

    @property
    def sync_rule(self) -> SyncRule:
        """The rule for acknowledgements and elections that these settings want."""
        return durability.desired(self.members, self.durability)


def policy(settings: Settings) -> Policy:
    """The planner's view of the settings."""
    return Policy(
        members=dict(settings.members),
        times=timing(settings),
        durability=settings.durability,
        restart_in_place=settings.leaderl.restart_in_place,
        restart_max_redo=settings.leaderl.restart_max_redo_mb << 20,
        max_behind=settings.leaderl.max_bytes_behind_leader,
        search_fatal=settings.leaderl.health_check.search_fatal,
    )
