"""The machines' image: reused while its inputs are unchanged, built otherwise."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.errors import APIError, ImageNotFound, NotFound

from . import engine, host_settings
from .progress import LabError, tail, tail_of
from .topology import LABEL

FOLDER = Path(__file__).parent / "machine"
REPOSITORY = "chefha-lab"
OFFICIAL_BASE = "debian:trixie-slim"
OWN_BASE = "chefha-lab-base:trixie"
RELEASE = "trixie"
BOOTSTRAP_TIMEOUT = 900
LOG = Path("/var/log/chefha-lab-image.log")


def tag() -> str:
    """Name of the image: a hash over everything in lab/machine, so that a changed input is a new image."""
    digest = hashlib.sha256()
    for path in sorted(p for p in FOLDER.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(FOLDER)}\0{path.stat().st_mode & 0o111:o}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return f"{REPOSITORY}:{digest.hexdigest()[:12]}"


def exists(client: docker.DockerClient) -> bool:
    """Whether the image of the present inputs is there."""
    return _has(client, tag())


def ensure(client: docker.DockerClient) -> str:
    """Return the image's name, building it (minutes) if it isn't there. LabError with the build's last words."""
    if not exists(client):
        _build(client, _base(client))
    return tag()


def remove(client: docker.DockerClient) -> int:
    """Remove every image the lab made, also those of build stages; return how many."""
    images = client.images.list(filters={"label": LABEL}, all=True)
    removed = 0
    # Twice: a stage's image can only go once nothing is built on it.
    for _ in range(2):
        for image in images:
            try:
                client.images.remove(str(image.id), force=True)
                removed += 1
            except (NotFound, APIError):
                continue
    return removed


def _has(client: docker.DockerClient, name: str) -> bool:
    try:
        client.images.get(name)
    except ImageNotFound:
        return False
    return True


def _base(client: docker.DockerClient) -> str:
    """Name of a Debian image: one that is here, one that can be pulled, or one made with debootstrap."""
    for name in (OFFICIAL_BASE, OWN_BASE):
        if _has(client, name):
            return name
    try:
        client.images.pull(OFFICIAL_BASE)
    except (APIError, NotFound):
        _bootstrap(client)
        return OWN_BASE
    return OFFICIAL_BASE


def _bootstrap(client: docker.DockerClient) -> None:
    """Make the base image from Debian's packages alone: for machines that can't pull from an image registry."""
    if shutil.which("debootstrap") is None:
        engine.install(["debootstrap", "debian-archive-keyring"])
    with tempfile.TemporaryDirectory(prefix="chefha-lab-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", RELEASE, str(root)]
        mirror = host_settings.debian_mirror()
        with LOG.open("wb") as log:
            done = subprocess.run(
                command + ([mirror] if mirror else []),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=BOOTSTRAP_TIMEOUT, check=False,
            )  # fmt: skip
        if done.returncode:
            raise LabError(f"{' '.join(command)} ended with {done.returncode} ({LOG}):\n{tail_of(LOG)}")
        shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)
        repository, _, name = OWN_BASE.partition(":")
        client.api.import_image_from_stream(
            _tarred(root), repository=repository, tag=name, changes=[f"LABEL {LABEL}=base"]
        )
    if not _has(client, OWN_BASE):
        raise LabError(f"importing {OWN_BASE} into the engine left no image")


def _tarred(root: Path) -> Iterator[bytes]:
    """The folder as a tar stream, in pieces. tar(1), not tarfile: device nodes, owners and speed."""
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield from iter(lambda: process.stdout.read(1 << 18), b"")  # type: ignore[union-attr]


def _build(client: docker.DockerClient, base: str) -> None:
    """Build through the engine's own builder (every engine has it), its words kept in a log file."""
    args = {**host_settings.build_args(), "BASE": base}
    failure = ""
    with LOG.open("w") as log:
        stream = client.api.build(
            fileobj=_context(), custom_context=True, tag=tag(), buildargs=args, network_mode="host",
            rm=True, forcerm=True, decode=True,
        )  # fmt: skip
        for message in stream:
            log.write(str(message.get("stream") or message.get("status") or message.get("error") or ""))
            failure = message.get("error", failure)
    if failure:
        raise LabError(f"building {tag()}: {failure} ({LOG}):\n{tail(LOG.read_text(errors='replace'), 40)}")


def _context() -> io.BytesIO:
    """The build context: lab/machine as it is, and the host's settings in `host/`, in memory only."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(FOLDER.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(FOLDER)), recursive=False, filter=_as_root)
        for name, content in host_settings.build_files().items():
            member = tarfile.TarInfo(f"host/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owner and time out of the context: the engine's build cache then holds across checkouts."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    return member
