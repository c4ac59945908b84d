"""F56: a cluster is upgraded while it is written to; a member that cannot be stops it, and it goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab.api import Lab
from lab.deploy import PYTHON
from lab.stack import CLUSTER
from lab.topology import BACKENDS
from tests.lab.story import HICCUP, under_load

import chefha_core

#: seconds for one run of the upgrade: three highstates one after the other, and a hand-over
RUN = 400.0
UNITS = ("chefha-etcd.service", "chefha-postgresql.service")
#: what an upgraded package does: another file in the place of the one that runs
RENEW = "exe=$(readlink /proc/$(systemctl show -P MainPID $unit)/exe); cp -p $exe $exe.new; mv $exe.new $exe"
#: which file each unit's process runs; "(deleted)" once another has taken its place
PROGRAMS = f"for unit in {' '.join(UNITS)}; do readlink /proc/$(systemctl show -P MainPID $unit)/exe; done"
PIP = f"$({PYTHON} -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')/pip"


def upgrade(lab: Lab) -> dict[str, Any]:
    """What `salt-run chefha.upgrade` answers: that it is done, or why not."""
    return lab.salt_run("chefha.upgrade", CLUSTER, "timeout=300", timeout=RUN)


def versions(lab: Lab) -> dict[str, str]:
    """The library that each member's shell command is of."""
    said = {node.name: lab.exec(node.name, ["chef-backend-ctl", "version", "--json"])[1] for node in BACKENDS}
    return {name: json.loads(text)["library"] for name, text in said.items()}


@contextmanager
def without_pip(lab: Lab, node: str) -> Iterator[None]:
    """A member on which nothing can be installed."""
    lab.exec(node, f"mv {PIP} /root/pip-away")
    try:
        yield
    finally:
        lab.exec(node, f"mv /root/pip-away {PIP}")


@pytest.mark.soak
def test_f56_rolling_upgrade_under_load_stops_and_goes_on(lab: Lab) -> None:
    """Followers first, one hand-over, the old leader last, nothing lost; mixed versions work in between."""
    new = f"{chefha_core.__version__}.post{int(time.time())}"
    lab.release(new)
    with under_load(lab, outage=HICCUP) as story:
        first, second = sorted(story.followers)
        lab.exec(second, ["systemctl", "stop", "chefha-leaderl"])
        refused = upgrade(lab)
        lab.exec(second, ["systemctl", "start", "chefha-leaderl"])
        assert "refused before anything was touched" in refused["error"], refused
        assert second in refused["error"]
        story.witness.await_converged(45)
        before = versions(lab)
        assert new not in before.values(), before

        with without_pip(lab, second):
            stopped = upgrade(lab)
        assert f"stopped at {second}" in stopped["error"] and "No module named pip" in stopped["error"], stopped
        assert f"{first} done before it, {story.leader} not touched" in stopped["error"]
        assert versions(lab) == {**before, first: new}
        story.stays(1)
        seen = lab.salt_run("chefha.cluster_status", CLUSTER)
        assert seen["problems"] == {} and {row["version"] for row in seen["members"]} == {before[second], new}
        # its modules came from the master before its library could: it says so, and the others speak for it
        assert f"modules are version {new}" in seen["unanswered"][second]

        for node in (first, story.leader):
            lab.exec(node, f"for unit in {' '.join(UNITS)}; do {RENEW}; done")
        done = upgrade(lab)
        assert done["order"] == done["changed"] == [first, second, story.leader], done
        restarted = {(step["node"], step["step"].split()[0]) for step in done["steps"] if "new program" in step["step"]}
        # the old leader's PostgreSQL was started anew by the hand-over already
        assert restarted == {(first, UNITS[0]), (first, UNITS[1]), (story.leader, UNITS[0])}, done
        for node in (first, story.leader):
            assert "(deleted)" not in lab.exec(node, PROGRAMS)[1], f"{node} still runs a program that was replaced"
        assert set(versions(lab).values()) == {new}
        assert max(row.epoch for row in story.witness.look()) == story.epoch + 1, "more than one hand-over"
        assert story.witness.leader() in story.followers

        orchestrated = ("state.orchestrate", "orch.chefha.upgrade", f"pillar={{cluster: {CLUSTER}}}")
        again = lab.salt_run(*orchestrated, timeout=RUN)
        assert '"changed": []' in (said := json.dumps(again)) and "nothing changed" in said, again
        assert max(row.epoch for row in story.witness.look()) == story.epoch + 1
    answers = lab.salt("*", "state.apply", timeout=400)
    failed = [state for answer in answers.values() for state in answer.values() if state["result"] is False]
    assert not failed, f"what is no member follows by its states: {failed}"
