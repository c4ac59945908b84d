"""Runs on the lab's master: makes Debian packages of the search engines' archives, and a repository of a folder.

    debs.py search FLAVOR ARCHIVE.zip FOLDER VERSION…   one package per version
    debs.py index FOLDER                                Packages and Release of all packages below it, unsigned

What it makes of an archive is laid out as the maker's own package: program in /usr/share, configuration in /etc (where
`/etc/default/FLAVOR` says so, and nothing else), a user of its own, a unit that the installation does not start.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SUITE = "dists/stable"
PREFIX = {"opensearch": "OPENSEARCH", "elasticsearch": "ES"}

CONTROL = """\
Package: {flavor}
Version: {version}
Architecture: all
Maintainer: chefha's tests <root@localhost>
Pre-Depends: adduser
Section: misc
Priority: optional
Description: {flavor}, repackaged for chefha's tests
 This is not the maker's own package: it is their archive {archive},
 laid out as their package is, to see how chefha gets along with that.
"""
ENVIRONMENT = "# configuration directory, shared with the command-line tools\n{prefix}_PATH_CONF=/etc/{flavor}\n"
UNIT = """\
[Unit]
Description={flavor}
After=network-online.target

[Service]
User={flavor}
Group={flavor}
EnvironmentFile=-/etc/default/{flavor}
ExecStart=/usr/share/{flavor}/bin/{flavor}
LimitNOFILE=65535

[Install]
WantedBy=multi-user.target
"""
# As OpenSearch's from 2.12 on: without a password for its demonstration it does not install.
PREINST = """\
#!/bin/sh
set -e
if [ {flavor} = opensearch ] && [ -z "$OPENSEARCH_INITIAL_ADMIN_PASSWORD" ]; then
    echo "OPENSEARCH_INITIAL_ADMIN_PASSWORD must be set" >&2
    exit 1
fi
getent group {flavor} >/dev/null || groupadd -r {flavor}
getent passwd {flavor} >/dev/null || useradd -r -g {flavor} -M -s /sbin/nologin {flavor}
"""
POSTINST = """\
#!/bin/sh
set -e
chown -R {flavor}:{flavor} /etc/{flavor} /var/lib/{flavor} /var/log/{flavor}
chmod -R u=rwX,g=rX,o= /etc/{flavor}
chmod 750 /var/lib/{flavor} /var/log/{flavor}
systemctl daemon-reload || true
if [ "$1" = configure ] && [ -n "$2" ]; then
    if systemctl is-enabled {flavor}.service >/dev/null 2>&1; then systemctl start {flavor}.service; fi
else
    echo "NOT starting on installation"
fi
"""
PRERM = """\
#!/bin/sh
set -e
if systemctl is-active {flavor}.service >/dev/null 2>&1; then systemctl --no-reload stop {flavor}.service; fi
"""


def search(flavor: str, archive: Path, folder: Path, versions: list[str]) -> None:
    """The archive as one package per version in ``folder``; what is in them is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        tree = Path(name, "tree")
        _lay_out(flavor, archive, tree)
        for version in versions:
            words = {"flavor": flavor, "version": version, "archive": archive.name}
            _put(tree / "DEBIAN/control", CONTROL.format(**words))
            for script, text in (("preinst", PREINST), ("postinst", POSTINST), ("prerm", PRERM)):
                _put(tree / "DEBIAN" / script, text.format(**words), 0o755)
            configuration = [
                f"/{path.relative_to(tree)}" for path in sorted((tree / "etc").rglob("*")) if path.is_file()
            ]
            _put(tree / "DEBIAN/conffiles", "".join(f"{path}\n" for path in configuration))
            target = folder / f"{flavor}_{version}_all.deb"
            subprocess.run(
                ["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(target)],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip


def _lay_out(flavor: str, archive: Path, tree: Path) -> None:
    unpacked = tree.with_name("unpacked")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(unpacked)
    [home] = unpacked.iterdir()
    tree.mkdir(mode=0o755)
    (tree / "usr/share").mkdir(parents=True)
    (tree / "etc").mkdir()
    home.rename(tree / "usr/share" / flavor)
    home = tree / "usr/share" / flavor
    (home / "config").rename(tree / "etc" / flavor)
    for name in ("lib", "log"):
        (tree / "var" / name / flavor).mkdir(parents=True)
    for name in ("plugins", "data", "logs"):
        shutil.rmtree(home / name, ignore_errors=True)
    (home / "plugins").mkdir()
    for program in (home / "bin").iterdir():
        program.chmod(0o755)
    words = {"flavor": flavor, "prefix": PREFIX[flavor]}
    _put(tree / "etc/default" / flavor, ENVIRONMENT.format(**words))
    _put(tree / "usr/lib/systemd/system" / f"{flavor}.service", UNIT.format(**words))
    _read_configuration_folder_from_etc(home / "bin" / f"{flavor}-env", flavor)


def _read_configuration_folder_from_etc(script: Path, flavor: str) -> None:
    """The archives' script falls back to a folder beside the program; the packages' one always asks /etc/default."""
    own = rf'if \[ -z "\${PREFIX[flavor]}_PATH_CONF" \]; then {PREFIX[flavor]}_PATH_CONF=[^\n]*; fi'
    text, found = re.subn(own, f"source /etc/default/{flavor}", script.read_text(encoding="utf-8"))
    if found != 1:
        sys.exit(f"{script}: expected one line {own}, found {found}")
    script.write_text(text, encoding="utf-8")


def index(folder: Path) -> None:
    """What apt reads, but for the signature."""
    paragraphs = []
    for package in sorted(folder.glob("pool/*.deb")):
        control = subprocess.run(
            ["dpkg-deb", "--field", str(package)], check=True, capture_output=True, text=True
        ).stdout.rstrip()
        data = package.read_bytes()
        more = f"Filename: pool/{package.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        paragraphs.append(f"{control}\n{more}")
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    packages = f"main/binary-{architecture}/Packages"
    _put(folder / SUITE / packages, "\n".join(paragraphs))
    data = (folder / SUITE / packages).read_bytes()
    release = {
        "Origin": "chefha-lab", "Suite": "stable", "Codename": "stable", "Components": "main",
        "Architectures": architecture, "Date": email.utils.formatdate(usegmt=True).replace("GMT", "UTC"),
        "SHA256": f"\n {hashlib.sha256(data).hexdigest()} {len(data)} {packages}",
    }  # fmt: skip
    _put(folder / SUITE / "Release", "".join(f"{name}: {value}\n" for name, value in release.items()))


def _put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


if __name__ == "__main__":
    os.umask(0o022)
    kind, *rest = sys.argv[1:]
    if kind == "search":
        search(rest[0], Path(rest[1]), Path(rest[2]), rest[3:])
    else:
        index(Path(rest[0]))
