"""A real cluster for the tests, one per stack: all tests of a stack run together.

CHEFHA_LAB_STACKS=17     which majors of PostgreSQL, with commas between (17,13)
CHEFHA_KEEP_LAB=1        leave the last lab up
CHEFHA_REUSE_LAB=1       use the lab that runs, without bringing it up from nothing (which is then not tested)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from lab.api import Lab, Stack
from lab.witness import Witness
from tests.lab.bring_up import BringUp, from_nothing

# The engine's every request would bury what a failed test has to say.
logging.getLogger("urllib3").setLevel(logging.INFO)
STACKS = [int(major) for major in os.environ.get("CHEFHA_LAB_STACKS", "17,13").split(",")]


@pytest.fixture(scope="session", params=STACKS, ids=lambda major: f"postgresql-{major}")
def brought_up(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, BringUp | None]]:
    """The lab with this major of PostgreSQL, and what was seen while it came up."""
    lab = Lab()
    if os.environ.get("CHEFHA_REUSE_LAB"):
        running = lab.machines.stack()
        if running is None or Stack.from_label(running).postgresql != request.param:
            pytest.skip(f"the lab that runs has not PostgreSQL {request.param}")
        lab.heal_all()
        yield lab, None
        return
    lab.down()
    try:
        yield lab, from_nothing(lab, Stack(postgresql=request.param))
    finally:
        if not os.environ.get("CHEFHA_KEEP_LAB"):
            lab.down()


@pytest.fixture
def lab(brought_up: tuple[Lab, BringUp | None]) -> Lab:
    """The lab. Each test mends what it breaks."""
    return brought_up[0]


@pytest.fixture
def bring_up(brought_up: tuple[Lab, BringUp | None]) -> BringUp:
    """What was seen while the lab came up from nothing."""
    if brought_up[1] is None:
        pytest.skip("the lab was up already")
    return brought_up[1]


@pytest.fixture
def witness(lab: Lab) -> Witness:
    """Looks at the machines themselves."""
    return Witness(lab.machines)
