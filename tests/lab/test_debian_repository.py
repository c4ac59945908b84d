"""Search and front ends as packages of a Debian repository, with a key of its own: the lab's, on its master.

Search's package is the maker's archive, laid out as the maker's package is; the front ends' is the stand-in.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from lab.api import Lab
from lab.repository import AGAIN
from lab.stack import CHEF_SERVER_VERSION, NEXT_CHEF_SERVER_VERSION
from lab.topology import BACKENDS, FRONTENDS
from lab.witness import Witness
from tests.lab.bring_up import APPLY_TIMEOUT, did_change, failed

FRONT_END = FRONTENDS[1].name
INSTALLED = "dpkg-query -W -f '${Version}' "


def run(lab: Lab, node: str, command: str) -> str:
    """What a command prints; it must succeed."""
    code, text = lab.exec(node, command, 120)
    assert code == 0, text
    return text.strip()


def apply(lab: Lab, node: str, **changed: Any) -> Any:
    """state.apply on one machine with something else in the pillar."""
    pillar = [f"pillar={json.dumps({'chefha': changed})}"] if changed else []
    answer = lab.salt(node, "state.apply", *pillar, timeout=APPLY_TIMEOUT)[node]
    assert not failed(answer)
    return answer


@pytest.mark.packaged("search")
def test_search_runs_from_its_package_with_our_configuration(lab: Lab) -> None:
    """Installed from the signed repository, run by our unit with our files; the package's own service never started."""
    flavor = lab.stack.search
    for node in BACKENDS:
        assert run(lab, node.name, INSTALLED + flavor) == lab.stack.search_version
        command = run(lab, node.name, 'tr "\\0" " " </proc/$(systemctl show -P MainPID chefha-search)/cmdline')
        assert f"/usr/share/{flavor}" in command and "/etc/chefha/search" in command
        assert lab.exec(node.name, ["systemctl", "is-enabled", f"{flavor}.service"])[1].strip() == "masked"
        assert run(lab, node.name, f"systemctl show -P ActiveEnterTimestampMonotonic {flavor}.service") == "0"
    signed = run(lab, BACKENDS[0].name, "cat /etc/apt/sources.list.d/chefha-search.list")
    assert "[signed-by=/etc/apt/keyrings/chefha-search.asc]" in signed


@pytest.mark.packaged("search")
def test_a_version_in_the_pillar_upgrades_searchs_package(lab: Lab, witness: Witness) -> None:
    """One member gets another version of the package, its search restarts with it, and the cluster is whole again."""
    flavor, version, member = lab.stack.search, lab.stack.search_version, BACKENDS[2].name
    pid = run(lab, member, "systemctl show -P MainPID chefha-search")
    try:
        answer = apply(lab, member, search={"version": version + AGAIN})
        assert "chefha_search (chefha)" in did_change(answer)
        assert run(lab, member, INSTALLED + flavor) == version + AGAIN
        assert run(lab, member, "systemctl show -P MainPID chefha-search") not in ("0", pid)
        assert "/etc/chefha/search" in run(lab, member, f"cat /etc/default/{flavor}"), "the upgrade took our file"
        witness.await_search()
    finally:  # backwards only by hand: no engine reads the data of a newer one
        env = {"OPENSEARCH_INITIAL_ADMIN_PASSWORD": "unused", "DEBIAN_FRONTEND": "noninteractive"}
        options = "-q -y --allow-downgrades -o DPkg::Options::=--force-confold"
        lab.exec(member, f"apt-get {options} install {flavor}={version}", 120, env=env)
        apply(lab, member)
        lab.exec(member, ["systemctl", "restart", "chefha-search.service"], 90)
        witness.await_search()
    assert not did_change(apply(lab, member))


@pytest.mark.packaged("frontend")
def test_a_version_in_the_pillar_upgrades_a_front_ends_package(lab: Lab) -> None:
    """The front end comes from the repository in the version of the pillar, though a newer one is there too."""
    for node in FRONTENDS:
        assert run(lab, node.name, INSTALLED + "chef-server-core") == f"{CHEF_SERVER_VERSION}-1"
    try:
        answer = apply(lab, FRONT_END, frontend={"chef_server_version": NEXT_CHEF_SERVER_VERSION})
        changed = did_change(answer)
        assert {"chefha_frontend_package (chefha)", "chefha_frontend_reconfigured (chefha)"} <= changed, changed
        assert run(lab, FRONT_END, INSTALLED + "chef-server-core") == f"{NEXT_CHEF_SERVER_VERSION}-1"
    finally:
        package = f"chef-server-core={CHEF_SERVER_VERSION}-1"
        lab.exec(FRONT_END, f"apt-get -q -y --allow-downgrades install {package}", 120)
        apply(lab, FRONT_END)
    assert not did_change(apply(lab, FRONT_END))
