"""Where one node's PostgreSQL lives, and how its programs are run: as its user, with a deadline, without secrets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chefha_core.settings import Settings

CONFIG_FILE = Path("/etc/chefha/postgresql/postgresql.conf")
SOCKET_DIR = Path("/run/chefha/postgresql")
PERMIT = Path("/run/chefha/primary-permit")
OS_USER = "postgres"


class PostgresError(Exception):
    """One sentence: what failed, where, and what to do."""


@dataclass(frozen=True)
class Places:
    """All paths of one node's PostgreSQL."""

    data: Path
    bin: Path
    port: int
    config: Path = CONFIG_FILE
    sockets: Path = SOCKET_DIR
    permit: Path = PERMIT
    user: str = OS_USER
    tls: Path | None = None
    home: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "home", self.data.parent)

    @classmethod
    def of(cls, settings: Settings) -> Places:
        """The usual places."""
        tls = Path(settings.tls.directory) if settings.tls.enabled else None
        return cls(Path(settings.postgresql.data_dir), Path(settings.pg_bin), settings.postgresql.port, tls=tls)

    @property
    def role_conf(self) -> Path:
        return self.home / "role.conf"

    @property
    def pgpass(self) -> Path:
        return self.home / "pgpass"

    @property
    def fresh(self) -> Path:
        """A data directory in the making."""
        return self.home / f"{self.data.name}.new"

    @property
    def old(self) -> Path:
        """The data directory that a clone replaced."""
        return self.home / f"{self.data.name}.old"

    @property
    def restored(self) -> Path:
        """A complete restored data directory that waits to be put in the place of the present one."""
        return self.home / f"{self.data.name}.restored"

    def replaced(self, system_id: str = "*") -> Path:
        """What the restored directory with this system identifier replaced; a pattern for all of them."""
        return self.home / f"{self.data.name}.before-{system_id}"

    @property
    def rewinding(self) -> Path:
        """Marks a data directory that pg_rewind has begun to change."""
        return self.home / f"{self.data.name}.rewinding"

    @property
    def standby_signal(self) -> Path:
        return self.data / "standby.signal"

    @property
    def socket(self) -> Path:
        return self.sockets / f".s.PGSQL.{self.port}"

    def write(self, path: Path, text: str, durable: bool = True) -> None:
        """Write a file of PostgreSQL's user, 0600, atomically; ``durable``: so that a crash cannot undo it.

        Under its own name it is PostgreSQL's from the first instant: a standby dies of a file it must not read.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if os.geteuid() == 0:
                user = pwd.getpwnam(self.user)
                os.fchown(fd, user.pw_uid, user.pw_gid)
            if durable:
                os.fsync(fd)
        temporary.replace(path)
        if durable:
            sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames, creations and removals within ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def exclusive(places: Places) -> Iterator[int]:
    """Only one program at a time may work on the data directory; programs that outlive their caller keep the lock.

    PostgresError if another one holds it.
    """
    fd = os.open(places.home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PostgresError(
                f"another program (perhaps left by an interrupted attempt) works on {places.data}; wait for its end"
            ) from None
        yield fd
    finally:
        os.close(fd)


def spawn(
    places: Places,
    argv: Sequence[str],
    output: int,
    keep: tuple[int, ...] = (),
    stdin: int = subprocess.DEVNULL,
    errors: int = subprocess.STDOUT,
) -> subprocess.Popen[bytes]:
    """Start one of PostgreSQL's programs as its user, in a session of its own, with a bare environment."""
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PGPASSFILE": str(places.pgpass), "PGCONNECT_TIMEOUT": "5"}
    user = places.user if os.geteuid() == 0 else None
    try:
        return subprocess.Popen(
            [str(places.bin / argv[0]), *argv[1:]],
            stdin=stdin,
            stdout=output,
            stderr=errors,
            cwd=places.home,
            env=env,
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=os.getgrouplist(user, pwd.getpwnam(user).pw_gid) if user else None,
            start_new_session=True,
            pass_fds=keep,
            umask=0o077,
        )
    except OSError as error:
        raise PostgresError(
            f"{places.bin / argv[0]} cannot be run: {error.strerror}; is PostgreSQL installed?"
        ) from None


def run(
    places: Places,
    argv: Sequence[str],
    timeout: float,
    on_line: Callable[[str], None] | None = None,
    keep: tuple[int, ...] = (),
    stdin: str = "",
) -> list[str]:
    """Run one of PostgreSQL's programs for ``timeout`` seconds at most; its lines of output.

    PostgresError if it fails (with its last lines) or does not end in time; then it is killed, but not waited for,
    because a process within hung I/O cannot die.
    """
    until = time.monotonic() + timeout
    process = spawn(places, argv, subprocess.PIPE, keep, subprocess.PIPE if stdin else subprocess.DEVNULL)
    assert process.stdout is not None
    if process.stdin is not None:  # less than a pipe holds, so this never blocks
        process.stdin.write(stdin.encode())
        process.stdin.close()
    lines: list[str] = []
    with process.stdout:
        finished = _read(process.stdout.fileno(), until, lines, on_line)
    try:
        code = process.wait(max(0.0, until - time.monotonic()) + 0.05 if finished else 0.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        raise PostgresError(f"{argv[0]} did not end within {timeout:g} s on {places.data} and was killed") from None
    if code:
        last = "; ".join(lines[-4:]) or f"exit code {code}"
        raise PostgresError(f"{argv[0]} failed on {places.data}: {last}")
    return lines


def _read(fd: int, until: float, lines: list[str], on_line: Callable[[str], None] | None) -> bool:
    """Collect lines until end of file (True) or the monotonic time ``until`` (False)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    rest = b""
    while time.monotonic() < until:
        if not poll.poll(max(1, (until - time.monotonic()) * 1000)):
            continue
        chunk = os.read(fd, 65536)
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if not chunk and rest:
            whole, rest = [rest], b""
        for raw in whole:
            if line := raw.decode("utf-8", "replace").strip():
                lines.append(line)
                del lines[:-500]
                if on_line:
                    on_line(line)
        if not chunk:
            return True
    return False
