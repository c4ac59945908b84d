"""The times by which policy judges, derived from the settings; all in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from chefha_core.settings import GRACE, KERNEL_LATENESS, Settings


@dataclass(frozen=True)
class Timing:
    """See docs/timing.md for the picture."""

    #: life of the lease, counted by its holder from before the renewal was sent
    ttl: float
    interval: float
    request: float
    reaction_grace: float
    start_timeout: float
    handover_timeout: float

    @property
    def stale_after(self) -> float:
        """How long a follower must have seen no change of the leader key; longer than the holder counts."""
        return self.ttl + GRACE

    @property
    def address(self) -> float:
        """From the start of the lease to the end of the address's life, so that the latest removal comes before
        anybody may take over."""
        return self.ttl + GRACE - KERNEL_LATENESS

    @property
    def stand_after(self) -> float:
        """When a follower whom the leader does not answer stands for election: so early that all that is left to do
        when the key is stale is to take it."""
        return self.stale_after - self.probe_deadline

    @property
    def ask_leader_after(self) -> float:
        """When a follower asks the leader directly, early enough to have the answer when it may stand."""
        return self.stand_after - self.probe_deadline

    @property
    def probe_deadline(self) -> float:
        """How long a direct question to another node may take."""
        return min(0.4, self.ttl / 6)

    @property
    def failsafe_after(self) -> float:
        """How old a lease may become before the members are asked whether the leader may go on without etcd: so early
        that the first failed request to etcd leads to the question, before the address ends."""
        return self.ttl / 4

    @property
    def yield_after(self) -> float:
        """How long a released key waits for the node it was released to, before anybody else acts."""
        return max(1.0, 2 * self.interval)


def timing(settings: Settings) -> Timing:
    """The times of these settings."""
    return Timing(
        ttl=settings.ttl,
        interval=settings.interval,
        request=settings.request_timeout,
        reaction_grace=settings.leaderl.reaction_grace_seconds,
        start_timeout=settings.leaderl.start_timeout_seconds,
        handover_timeout=settings.leaderl.handover_timeout_seconds,
    )
