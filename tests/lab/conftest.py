"""A real cluster for the tests, one per stack: all tests of a stack run together.

The tests marked `packaged(PART)` run on each stack that takes that part from the lab's Debian repository, those marked
`everywhere` on each, all others on the first one.

CHEFHA_LAB_STACKS=newest which stacks (lab/stack.py), with commas between (the default stack)
CHEFHA_KEEP_LAB=1        leave the last lab up
CHEFHA_REUSE_LAB=1       use the lab that runs, without bringing it up from nothing (which is then not tested)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from lab.api import STACKS, Lab, Stack
from lab.stack import DEFAULT
from lab.witness import Witness
from tests.lab.bring_up import BringUp, from_nothing
from tests.lab.secrecy import Secrets

# The engine's every request would bury what a failed test has to say.
logging.getLogger("urllib3").setLevel(logging.INFO)
#: the lab, what was seen while it came up from nothing, and the secrets that it has had since
Brought = tuple[Lab, BringUp | None, Secrets]
ASKED_FOR = [STACKS[name] for name in os.environ.get("CHEFHA_LAB_STACKS", DEFAULT.name).split(",")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which stacks a test runs on."""
    if "brought_up" in metafunc.fixturenames:
        marks = {mark.name: mark.args for mark in metafunc.definition.iter_markers()}
        stacks = ASKED_FOR if "everywhere" in marks else ASKED_FOR[:1]
        if "packaged" in marks:
            stacks = [stack for stack in ASKED_FOR if marks["packaged"][0] in stack.packaged]
        metafunc.parametrize("brought_up", stacks, ids=lambda stack: stack.name, indirect=True, scope="session")


@pytest.fixture(scope="session")
def brought_up(request: pytest.FixtureRequest) -> Iterator[Brought]:
    """The lab with this stack, and what was seen while it came up."""
    lab, secrets = Lab(), Secrets()
    if os.environ.get("CHEFHA_REUSE_LAB"):
        running = lab.machines.stack()
        if running is None or Stack.from_label(running).name != request.param.name:
            pytest.skip(f"the lab that runs is not the stack {request.param.name}")
        lab.heal_all()
        yield lab, None, secrets
        return
    lab.up(request.param, until="engine")  # or what an engine that was stopped has kept would be no nothing
    lab.down()
    try:
        yield lab, from_nothing(lab, request.param, secrets), secrets
    finally:
        if not os.environ.get("CHEFHA_KEEP_LAB"):
            lab.down()


@pytest.fixture
def lab(brought_up: Brought) -> Lab:
    """The lab. Each test mends what it breaks."""
    return brought_up[0]


@pytest.fixture
def bring_up(brought_up: Brought) -> BringUp:
    """What was seen while the lab came up from nothing."""
    if brought_up[1] is None:
        pytest.skip("the lab was up already")
    return brought_up[1]


@pytest.fixture
def secrets(brought_up: Brought) -> Secrets:
    """Every secret of the lab that was noted. A test that replaces some notes them before and after."""
    return brought_up[2]


@pytest.fixture
def witness(lab: Lab) -> Witness:
    """Looks at the machines themselves."""
    return Witness(lab.machines)
