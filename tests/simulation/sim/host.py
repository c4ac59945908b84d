"""A machine: its clock, its kernel's addresses, its PostgreSQL and the leaderl that may run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.engine import Owner
from sim.postgres import Postgres

if TYPE_CHECKING:
    from sim.leaderl import Leaderl
    from sim.world import World


class Host(Owner):
    """One of the three."""

    def __init__(self, world: World, name: str, offset: float, rate: float) -> None:
        super().__init__()
        self.world, self.name = world, name
        self.offset, self.rate = offset, rate
        self.up = True
        self.pg = Postgres(self)
        self.leaderl: Leaderl | None = None
        #: counts changes of the address, so that an old expiry does not remove a new address
        self._address = 0
        #: in the world's time, when its last hold on the leader key ends
        self.leased_until = 0.0
        self.start_fails = False
        self.jobs_fail = False
        self.unfit = ""
        #: what leaderl's test writes have found, and whether writes hang
        self.storage, self.storage_hangs = "", False
        self.failover = True
        self._hidden = False
        #: armed troubles: (what, name of the command's class, before or after, seconds)
        self.traps: list[tuple[str, str, str, float]] = []

    def clock(self) -> float:
        """The node's own monotonic clock."""
        return self.offset + self.world.engine.t * self.rate

    @property
    def has_address(self) -> bool:
        return self.name in self.world.holders

    def add_address(self, lifetime: float) -> None:
        """The kernel holds the address; it removes it up to a second late, whatever happens to its user space."""
        self._address += 1
        this = self._address
        world = self.world
        world.holders.add(self.name)
        late = world.rng.choice((0.0, 0.99, world.rng.random()))
        world.engine.at((lifetime + late) / self.rate, lambda: self._expire(this))
        world.address_added(self)

    def _expire(self, which: int) -> None:
        if which == self._address and self.has_address:
            self.world.tell(self.name, "the kernel removes the VIP: its lifetime is over")
            self.drop_address()

    def drop_address(self) -> None:
        self._address += 1
        self.world.holders.discard(self.name)

    def poke(self) -> None:
        """Something leaderl notices at once."""
        if self.leaderl is not None:
            self.leaderl.poke()

    # ---- faults ----

    def power_off(self) -> None:
        self.up = False
        self.frozen = False
        self.kill_leaderl()
        self.pg.power_off()
        self.drop_address()
        self.forget()
        self.pg._seeking = False

    def power_on(self) -> None:
        if not self.up:
            self.up = True
            self.start_leaderl()

    def kill_leaderl(self) -> None:
        if self.leaderl is not None:
            self.leaderl.end()
            self.leaderl = None

    def start_leaderl(self) -> None:
        if self.up and self.leaderl is None:
            self.leaderl = self.world.make_leaderl(self)

    def freeze(self) -> None:
        if self.up:
            self.frozen = True

    def suspend(self) -> None:
        """Nothing runs, no clock counts, and nobody answers for an address."""
        self.freeze()
        if self.up:
            self._hidden = self.has_address
            self.world.holders.discard(self.name)

    def resume(self, seconds: float) -> None:
        """Everything goes on as if no time had passed; leaderl looks at the other clock before anything else."""
        if not self.frozen:
            return
        self.offset -= seconds * self.rate
        noticed = self.world.guards.suspend_noticed
        if self.leaderl is not None and noticed:
            self.leaderl.paused = True
        if self._hidden and not noticed:
            self.add_address(1.0)
        self._hidden = False
        self.thaw()

    def thaw(self) -> None:
        if self.frozen:
            self.world.engine.thaw(self)
