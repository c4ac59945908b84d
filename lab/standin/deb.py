"""Builds the stand-in for the package chef-server-core: `python -m lab.standin.deb FOLDER [VERSION]`.

It needs nothing but dpkg-deb. What is in it says of itself that it is no Chef Infra Server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "opscode"
VERSION = "15.10.117"
PACKAGE = "chef-server-core"
UNIT = "opscode-haproxy.service"
EPOCH = "315532800"  # the same sources make the same package

CONTROL = """\
Package: {package}
Version: {version}-1
Architecture: all
Maintainer: chefha's tests <root@localhost>
Depends: ruby, postgresql-client, haproxy
Section: misc
Priority: optional
Description: stand-in for Chef Infra Server {version} in chefha's tests
 This is not Chef Infra Server. It provides a chef-server-ctl that reads
 chef-server.rb with real Ruby, checks the back end as Chef's own preflight does,
 makes its roles and databases, and writes its calls down.
"""

UNIT_TEXT = """\
[Unit]
Description=HAProxy of the stand-in for Chef Infra Server (use_chef_backend)
After=network.target
ConditionPathExists=/var/opt/opscode/haproxy/etc/haproxy.cfg

[Service]
ExecStart=/usr/sbin/haproxy -W -f /var/opt/opscode/haproxy/etc/haproxy.cfg
ExecReload=/bin/kill -USR2 $MAINPID
Restart=always
KillMode=mixed
Type=simple

[Install]
WantedBy=multi-user.target
"""


def build(folder: Path, version: str = VERSION) -> Path:
    """The package as a file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        tree.chmod(0o755)
        _put(tree / "DEBIAN/control", CONTROL.format(package=PACKAGE, version=version))
        _put(tree / "usr/lib/systemd/system" / UNIT, UNIT_TEXT)
        _put(tree / "opt/opscode/version", f"{version}\n")
        for part in ("bin", "lib"):
            shutil.copytree(SOURCES / part, tree / "opt/opscode" / part)
        (tree / "opt/opscode/bin/chef-server-ctl").chmod(0o755)
        link = tree / "usr/bin/chef-server-ctl"
        link.parent.mkdir(parents=True)
        link.symlink_to("/opt/opscode/bin/chef-server-ctl")
        target = folder / f"{PACKAGE}_{version}-1_all.deb"
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", "-Zgzip", str(tree), str(target)],
            check=True,
            capture_output=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        )
    return target


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    print(build(Path(sys.argv[1]), *sys.argv[2:3]))
