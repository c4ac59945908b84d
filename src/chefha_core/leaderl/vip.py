"""Takes the virtual address for no longer than a lease lasts, and only where nobody else answers for it."""

from __future__ import annotations

import math
import threading
import time

from chefha_core.leaderl.memory import SUSPENDED, Memory
from chefha_core.parts import arp
from chefha_core.parts.address import Address, AddressError
from chefha_core.plan.commands import HoldAddress
from chefha_core.settings import Settings

#: seconds for which "nobody answered for the VIP" counts
FREE_LIFE = 1.0
#: seconds that giving the address to the kernel may take at most
HOLDING = 0.02


class Vip:
    """The VIP on this node. What stands in the way is an AddressError, or an ArpError."""

    def __init__(self, settings: Settings, address: Address, memory: Memory) -> None:
        self.settings, self.address, self.memory = settings, address, memory
        self._checking = threading.Lock()

    def hold(self, command: HoldAddress) -> None:
        """Give it to the kernel for what is left of the lease, and tell the network where it is taken anew."""
        lease = self.memory.lease
        if lease is None:
            raise AddressError("no lease")
        if self.memory.was_suspended():
            raise AddressError(SUSPENDED)
        if command.check:
            self.check()
        ends = lease.sent_at + command.seconds
        lifetime = math.floor(ends - HOLDING - time.monotonic())
        if lifetime < 1:
            raise AddressError("too little is left of the lease; the address follows the next renewal")
        self.address.hold(lifetime)
        if time.monotonic() + lifetime > ends:  # this process or the machine stood still meanwhile
            self.address.drop()
            raise AddressError(
                "giving the address to the kernel took too long for what was left of the lease: withdrawn"
            )
        if command.take:
            self._announce()

    def check(self) -> None:
        """Nobody else answers for it, or has not a moment ago."""
        with self._checking:  # who comes while it is being checked waits for that check
            if time.monotonic() - self.memory.address_free_at < FREE_LIFE:
                return
            stranger = arp.who_has(self.settings.vip, self.settings.vip_interface)
            self.memory.address_taken_by = stranger or ""
            if stranger:
                raise AddressError(
                    f"{stranger} answers for the VIP {self.settings.vip}: not taking it as long as it does"
                )
            self.memory.address_free_at = time.monotonic()

    def _announce(self) -> None:
        try:
            arp.announce(self.settings.vip, self.settings.vip_interface, still=self.address.present)
        except arp.ArpError:
            self.address.drop()  # or no later round would announce it
            raise
