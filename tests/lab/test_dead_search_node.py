"""Search on the members: whole after the highstate, reported when a node is down, never a reason to move PostgreSQL."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lab.api import Lab
from lab.topology import BACKENDS, VIP
from lab.witness import Witness
from tests.lab.story import HICCUP, under_load

pytestmark = pytest.mark.everywhere
INDEX = "chefha-lab-test"
#: seconds until a node that hangs is left out by the others, which may have to elect a master, and reported by leaderl
REPORTED = 120.0


@pytest.fixture(autouse=True)
def _needs_search(lab: Lab) -> None:
    if lab.stack.search == "none":
        pytest.skip("this stack has no search")


def ask(lab: Lab, path: str, method: str = "GET", body: str = "") -> Any:
    """One question through the VIP, from the client."""
    command = f"curl -sf -m 10 -X {method} -H 'Content-Type: application/json' -d '{body}' 'http://{VIP}:9200{path}'"
    code, text = lab.exec("client", command, 20)
    assert code == 0, f"{method} {path}: {code} {text}"
    return json.loads(text)


def followers(lab: Lab) -> int:
    """Copies that the index has beside its primary shards."""
    settings = ask(lab, f"/{INDEX}/_settings")[INDEX]["settings"]["index"]
    return int(settings["number_of_replicas"])


def test_search_trouble_on_one_node_is_reported_and_does_not_make_it_ineligible(lab: Lab, witness: Witness) -> None:
    """status and cluster_status say so, the index has a follower less until it is back, nobody takes over; but the
    node may be promoted.
    """
    witness.await_search()
    ask(lab, f"/{INDEX}", "PUT", '{"settings": {"number_of_shards": 2, "number_of_replicas": 1}}')
    try:
        witness.await_true(lambda: copies(lab, 2), REPORTED, "each node a copy")
        with under_load(lab, outage=HICCUP) as story:
            victim = story.followers[0]
            story.inject("stop-search", victim)
            witness.await_true(lambda: reported(lab, story.leader, victim), REPORTED, "the dead node is not reported")
            witness.await_true(lambda: copies(lab, 1), REPORTED, "a copy less")
            story.stays(2)
            answer = lab.salt(victim, "chefha.promote", victim, timeout=45)[victim]
            assert isinstance(answer, dict), answer
        witness.await_search()
        witness.await_true(lambda: copies(lab, 2), REPORTED, "each node a copy again")
    finally:
        ask(lab, f"/{INDEX}", "DELETE")


def copies(lab: Lab, wanted: int) -> list[str]:
    found = followers(lab)
    return [] if found == wanted else [f"the index has {found} followers, not {wanted}"]


def reported(lab: Lab, asked_on: str, victim: str) -> list[str]:
    """What is still missing of the reports that the search of `victim` is down."""
    rows = lab.salt(asked_on, "chefha.cluster_status")[asked_on]["members"]
    words = {row["name"]: row["search"] for row in rows}
    cell = lab.salt(asked_on, "chefha.status")[asked_on]["services"][lab.stack.search]["distributed"]
    missing = [] if words[victim] == "offline" else [f"cluster_status: {words}"]
    missing += [] if f"nodes online: 2/{len(BACKENDS)}" in cell else [f"status: {cell}"]
    return missing
