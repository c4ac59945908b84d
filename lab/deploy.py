"""The project and its pillar on the lab's master: what is put there, and how it is told that nothing changed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import repository
from .nodes import Machines
from .stack import BIND_PASSWORD, CHEF_SERVER_VERSION, CLUSTER, NEXT_CHEF_SERVER_VERSION, Stack, pillar
from .standin import deb
from .topology import MASTER

PROJECT = Path(__file__).resolve().parent.parent
SOURCE = "/srv/chefha"
WHEELS = f"{SOURCE}/salt/chefha/minion/files"
PILLAR = "/srv/chefha-pillar"
STATE = "/var/lib/chefha-lab"
PYTHON = "/opt/saltstack/salt/bin/python"
BUILDER = "/opt/wheel-builder/bin/python"
FRONTEND_FILES = f"{SOURCE}/salt/chefha/frontend/files"
STAND_IN = "chef-server-core.deb"
#: further lines of chef-server.rb
FURTHER = {"ldap['bind_password']": BIND_PASSWORD}
SECRETS_CONF = f"{SOURCE}/salt/chefha/master/files/chefha-secrets.conf"
MASTER_D = "/etc/salt/master.d"
# Only what the machines use: the rest would make every edit of a test or a page a new deployment.
LEFT_OUT = {"lab", "tests", "bench", "docs", "build", "dist", "scripts", "Makefile", "requirements.lock"}
WHEEL_TIMEOUT = 180.0


class Deployment:
    """One checkout of the project, about to be put on the master."""

    def __init__(self, machines: Machines, stack: Stack, project: Path = PROJECT) -> None:
        self._machines = machines
        self._stack = stack
        self._archive, tree_hash = _archived(project)
        self._stand_in = stand_in() if stack.frontends else b""
        self._repository: dict[str, str] = {}
        parts = (tree_hash, json.dumps(stack.label(), sort_keys=True), hashlib.sha256(self._stand_in).hexdigest())
        self.hash = hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def is_current(self) -> bool:
        """Whether the master has exactly this, and all states were applied with it."""
        return self._machines.run(MASTER, ["cat", f"{STATE}/deployed"], 10).out.strip() == self.hash

    def mark_current(self) -> None:
        """Note on the master that this was applied everywhere."""
        self._machines.write(MASTER, {f"{STATE}/deployed": self.hash + "\n"})

    def put(self) -> None:
        """Replace the project's tree on the master."""
        self._machines.check(
            MASTER, ["sh", "-c", f"rm -rf {SOURCE} {STATE}/deployed && mkdir -p {SOURCE} {PILLAR} {STATE}"]
        )
        self._machines.put_tar(MASTER, SOURCE, self._archive)
        if self._stand_in:
            self._machines.check(MASTER, ["mkdir", "-p", FRONTEND_FILES])
            self._machines.write(MASTER, {f"{FRONTEND_FILES}/{STAND_IN}": self._stand_in})

    def make_repository(self) -> None:
        """Have a Debian repository on the master with what the stack takes from one."""
        stand_ins = {}
        if "frontend" in self._stack.packaged:
            versions = (CHEF_SERVER_VERSION, NEXT_CHEF_SERVER_VERSION)
            stand_ins = {f"chef-server-core_{version}-1_all.deb": stand_in(version) for version in versions}
        key = repository.ensure(self._machines, self._stack, stand_ins)
        self._repository = {"repository": repository.LINE, "repository_key": key}

    def renumber(self, version: str) -> None:
        """Give the tree on the master another version number, everywhere it must stand."""
        edit = f"xargs sed -i 's/^__version__ = .*/__version__ = \"{version}\"/'"
        self._machines.check(MASTER, ["sh", "-c", f"grep -rl '^__version__ = ' {SOURCE}/src {SOURCE}/_* | {edit}"])

    def build_wheel(self) -> str:
        """Build the project's wheel on the master, which needs no network for it; return its file name."""
        copy = f"{STATE}/build"
        # A fixed time makes the same sources the same wheel: a state that serves it then sees no change.
        script = (
            f"set -e; rm -rf {copy}; cp -a {SOURCE} {copy}; mkdir -p {WHEELS}; rm -f {WHEELS}/*.whl; "
            f"SOURCE_DATE_EPOCH=315532800 PIP_DISABLE_PIP_VERSION_CHECK=1 {BUILDER} -m pip wheel -q --no-deps "
            f"--no-index --no-build-isolation -w {WHEELS} {copy} >&2; rm -rf {copy}; cd {WHEELS}; ls *.whl"
        )
        return self._machines.check(MASTER, ["sh", "-c", script], WHEEL_TIMEOUT).split()[-1]

    def write_pillar(self, wheel: str) -> None:
        """Write top file and pillar, readable by root only: it may hold the secrets."""
        more: dict[str, Any] = {"wheel": wheel}
        if self._stack.frontends:
            source = self._repository if "frontend" in self._stack.packaged else self._file()
            more["frontend"] = {"chef_server_version": CHEF_SERVER_VERSION, "settings": FURTHER, **source}
        # JSON is YAML; the first line keeps Jinja away from what may look like a template in a secret.
        tree = pillar(self._stack, self._repository, **more)
        sls = "#!yaml\n" + json.dumps(tree, indent=2, sort_keys=True) + "\n"
        top = "#!yaml\n" + json.dumps({"base": {"*": ["chefha"]}}) + "\n"
        self._machines.write(MASTER, {f"{PILLAR}/chefha.sls": sls, f"{PILLAR}/top.sls": top}, mode=0o600)

    def _file(self) -> dict[str, str]:
        """Where the stand-in is on the file server."""
        total = hashlib.sha256(self._stand_in).hexdigest()
        return {"source": f"salt://chefha/frontend/files/{STAND_IN}", "checksum": f"sha256={total}"}

    def make_secrets(self, wheel: str) -> bool:
        """Make the cluster's secrets on the master, which hands them out by ext_pillar; that needs the library in the
        master's own Python. Return whether the master must restart: for that configuration, or for another library.
        """
        kept = f"{STATE}/wheel.sha256"
        made = self._machines.check(MASTER, ["sha256sum", f"{WHEELS}/{wheel}"], 10)
        new = self._machines.run(MASTER, ["cat", kept], 10).out != made
        if new:
            install = "-m pip install -q --no-index --no-deps --force-reinstall --disable-pip-version-check"
            self._machines.check(MASTER, [PYTHON, *install.split(), f"{WHEELS}/{wheel}"], WHEEL_TIMEOUT)
            self._machines.write(MASTER, {kept: made})
        copy = f"cmp -s {SECRETS_CONF} {MASTER_D}/chefha-secrets.conf || cp -v {SECRETS_CONF} {MASTER_D}/"
        copied = self._machines.check(MASTER, ["sh", "-c", copy], 10)
        self._machines.check(MASTER, ["salt-run", "chefha.secrets", f"cluster={CLUSTER}"], 60)
        return new or bool(copied)


def stand_in(version: str = CHEF_SERVER_VERSION) -> bytes:
    """The stand-in for Chef's own package, a .deb, always the same bytes."""
    with tempfile.TemporaryDirectory(prefix="chefha-lab-") as folder:
        return deb.build(Path(folder), version).read_bytes()


def _archived(project: Path) -> tuple[bytes, str]:
    """The project as a tar archive (links kept as links, owner root, time now) and a hash of its content."""
    buffer = io.BytesIO()
    digest = hashlib.sha256()
    now = int(time.time())
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in _files(project):
            name = path.relative_to(project).as_posix()
            member = archive.gettarinfo(str(path), arcname=_renamed(name))
            # Now, not a fixed time: Salt's file server takes a file whose time has not changed for unchanged.
            member.uid, member.gid, member.mtime = 0, 0, now
            member.uname = member.gname = "root"
            content = path.read_bytes() if member.isreg() else member.linkname.encode()
            digest.update(f"{name}\0{member.type!r}\0{member.mode & 0o111:o}\0{len(content)}\0".encode() + content)
            archive.addfile(member, io.BytesIO(content) if member.isreg() else None)
    return buffer.getvalue(), digest.hexdigest()


def _files(project: Path) -> Iterator[Path]:
    """Files and links that belong on the machines, in a fixed order."""
    for folder, folders, names in os.walk(project):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in links and not _is_left_out(here, name, project))
        for name in sorted([*names, *links]):
            if not _is_left_out(here, name, project):
                yield here / name


def _is_left_out(folder: Path, name: str, project: Path) -> bool:
    if name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".egg-info", ".whl")):
        return True
    return folder == project and name in LEFT_OUT


def _renamed(name: str) -> str:
    """The example pillar gets a name nobody takes for the real one."""
    return name.replace("pillar", "pillar-example", 1) if name == "pillar" or name.startswith("pillar/") else name
