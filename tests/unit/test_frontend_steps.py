"""What a front end's states do on its own machine: no secret in what failed, and files that are whole."""

from __future__ import annotations

import errno
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from chefha_core.parts import frontend_files
from chefha_core.parts.frontend_files import Piece
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


def installed(front: FrontEnd, version: str) -> None:
    """dpkg of the front end has Chef's package in this version."""
    status = front.root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    (status.parent / "updates").mkdir(exist_ok=True)
    about = "Package: chef-server-core\nStatus: install ok installed\nMaintainer: x\nArchitecture: all\n"
    status.write_text(f"{about}Version: {version}\nDescription: x\n\n")


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg")
def test_another_package_than_chef_was_configured_with_is_a_reason_even_in_a_later_run(tmp_path: Path) -> None:
    front = front_end(tmp_path, repository="deb https://example.com/apt stable main")
    frontend.reconfigure(front, 20)
    for version in ("15.10.117-1", "15.10.117-2"):
        installed(front, version)  # and in that run a state between this one and the package's failed
        expected = {"chef-server-ctl reconfigure": "settings, carried files or the package have changed"}
        assert frontend.reconfigure(front, 20, test=True) == frontend.reconfigure(front, 20) == expected
        assert frontend.reconfigure(front, 20, test=True) == frontend.reconfigure(front, 20) == {}


def test_another_release_in_the_pillar_is_a_reason(tmp_path: Path) -> None:
    frontend.reconfigure(front_end(tmp_path), 20)
    assert frontend.reconfigure(front_end(tmp_path, chef_server_version="15.9.38"), 20)


def test_a_disk_without_room_leaves_the_former_file_and_nothing_beside_it(tmp_path: Path) -> None:
    piece = Piece(frontend_files.SECRETS, b"former")
    frontend_files.write(piece, tmp_path)
    place = tmp_path / piece.path.lstrip("/")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # beyond it a write is short, and the next one fails
    try:
        with pytest.raises(OSError, match="File too large") as failure:
            frontend_files.write(Piece(piece.path, b"x" * 3000), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (failure.value.errno, failure.value.filename) == (errno.EFBIG, str(place))
    assert place.read_bytes() == b"former" and list(place.parent.iterdir()) == [place]
    frontend_files.write(Piece(piece.path, b"x" * 300_000), tmp_path)
    assert place.read_bytes() == b"x" * 300_000 and oct(place.stat().st_mode) == "0o100600"
