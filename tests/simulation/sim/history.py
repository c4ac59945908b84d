"""One history: a world, a script of faults, and the end that must come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.faults import Fault, strike
from sim.world import World


def live(seed: int, script: Sequence[Fault], **kinds: Any) -> World:
    """Live through the script and settle; Violation if an invariant breaks on the way."""
    world = World(seed, **kinds)
    world.engine.run(8.0 if kinds.get("fresh") and world.rng.random() < 0.5 else 2.0)
    for fault in script:
        world.engine.run(world.engine.t + fault.after)
        strike(world, fault)
        world.check()
    world.engine.run(
        world.engine.t + (max((f.seconds for f in script), default=0.0) if world.rng.random() < 0.7 else 1.0)
    )
    world.settle()
    return world
