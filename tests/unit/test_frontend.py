"""What a front end's states do on its own machine: no secret in what failed, and files that are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chefha_core.settings import from_pillar
from chefha_core.verbs import frontend
from chefha_core.verbs.frontend import FrontEnd
from chefha_core.verbs.reach import VerbError

PILLAR: dict[str, Any] = {
    "members": {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"},
    "vip": "192.0.2.100",
    "frontends": {"fe1": "192.0.2.31", "fe2": "192.0.2.32"},
    "search": {"source": {"package": "search-engine"}},
    "secrets": {"superuser_password": "s3cret-superuser", "monitoring_password": "s3cret-monitoring"},
    "tls": {"ca": "-----BEGIN x"},
}


def front_end(root: Path, script: str = "exit 0", **more: Any) -> FrontEnd:
    """The first front end below a folder of its own, with a chef-server-ctl that does as the script says."""
    ctl = root / "chef-server-ctl"
    ctl.write_text(f"#!/bin/sh\n{script}\n")
    ctl.chmod(0o755)
    return FrontEnd(from_pillar({**PILLAR, "frontend": more}, "frontend"), "fe1", root, ctl)


def test_a_reconfigure_that_failed_shows_no_secret_of_the_further_settings(tmp_path: Path) -> None:
    further = {"ldap['bind_password']": 'ldap"pw', "data_collector": {"token": 12345678}, "ldap['host']": "an.host"}
    script = r"""echo 'ldap"pw' 'ldap\"pw' 12345678 s3cret-superuser an.host; exit 1"""
    front = front_end(tmp_path, script, settings=further)
    with pytest.raises(VerbError, match="failed with exit code 1") as failure:
        frontend.reconfigure(front, 20)
    assert str(failure.value).splitlines()[-1] == f"{'******** ' * 4}an.host"
