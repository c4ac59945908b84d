"""The postmaster of one data directory as the kernel sees it: found, watched, signalled, and ended with all it left.

Nothing here speaks SQL, so it works on a PostgreSQL that is hung, frozen or half dead. A process belongs to the
data directory if that is its working directory; a process id alone proves nothing, it may have been given anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chefha_core.parts.postgres_tools import PostgresError

#: "postgres: [cluster: ]user database host(port) …", the title of a client's backend
_CLIENT = re.compile(r"^postgres: (?:\S+: )?(\S+) \S+ (\[local\]|\S+\(\d+\))")
_LIBC = ctypes.CDLL(None)
_NOT_CLIENTS = ("walsender", "walreceiver", "autovacuum", "logical", "parallel", "background")


@dataclass(frozen=True)
class Postmaster:
    """A live postmaster: its process, and what it says of itself ("starting", "ready", "standby", "stopping")."""

    pid: int
    status: str


def find(data: Path) -> Postmaster | None:
    """The live postmaster of ``data``; None if there is none, also if only a stale pid file is left."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if pid <= 0 or not _serves(pid, data) or _title(pid).startswith("postgres: "):
        return None
    return Postmaster(pid, lines[7].strip() if len(lines) > 7 else "starting")


def processes(data: Path) -> list[int]:
    """Ids of all PostgreSQL server processes of ``data``, the postmaster first."""
    names = [entry.name for entry in Path("/proc").iterdir()]
    pids = [int(name) for name in names if name.isdigit() and _serves(int(name), data)]
    return sorted(pids, key=lambda pid: (_title(pid).startswith("postgres: "), pid))


def clients(data: Path) -> list[int]:
    """Ids of the backends that serve clients, read from their titles; leaderl and local administrators are none."""
    found = []
    for pid in processes(data):
        title = _CLIENT.match(_title(pid))
        if title and title.group(1) not in _NOT_CLIENTS and title.groups() != ("postgres", "[local]"):
            found.append(pid)
    return found


def newcomers(data: Path) -> list[int]:
    """Ids of the backends that have not heard yet who connects, so they still bear the postmaster's title."""
    return [pid for pid in processes(data) if not _title(pid).startswith("postgres: ") and _parent_serves(pid, data)]


def frozen(pid: int) -> bool:
    """True if the process is stopped (SIGSTOP, a debugger) and so cannot react to anything but SIGKILL."""
    return _state(pid) in ("T", "t")


def took_signal(pid: int, number: signal.Signals) -> bool:
    """True if the process sleeps and no such signal is pending, so it has dealt with the one it was sent."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return not any(mask >> (number - 1) & 1 for mask in pending) and _state(pid) == "S"


@contextlib.contextmanager
def watched(pid: int, data: Path) -> Iterator[int | None]:
    """A pidfd of the process, readable once it ends; None if it does not serve ``data`` (any more)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Only now: before the pidfd the id might have been given to another process in between.
        yield fd if _serves(pid, data) else None
    finally:
        os.close(fd)


def send(pid: int, number: signal.Signals, data: Path) -> bool:
    """Signal a process, if it still serves ``data``; False if not."""
    with watched(pid, data) as fd:
        if fd is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)
        return True


def wait_end(fd: int, until: float) -> bool:
    """Wait for the process behind a pidfd until the monotonic time ``until``; True if it ended."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, (until - time.monotonic()) * 1000)))


def wait_gone(data: Path, until: float) -> bool:
    """Wait until no process of ``data`` is left; without this a restart finds "pre-existing shared memory"."""
    while processes(data):
        if time.monotonic() >= until:
            return False
        time.sleep(0.002)
    return True


def kill_all(data: Path, until: float) -> None:
    """SIGKILL to the postmaster and all its leftovers until none is left.

    PostgresError if something is still there at the monotonic time ``until`` (a process within hung I/O).
    """
    while pids := processes(data):
        if time.monotonic() >= until:
            raise PostgresError(
                f"processes {', '.join(map(str, pids))} of {data} survive SIGKILL: their storage hangs; "
                "restore it or reboot the machine"
            )
        for pid in pids:
            send(pid, signal.SIGKILL, data)
        time.sleep(0.002)


def remove_stale_files(data: Path, socket: Path) -> None:
    """Remove the pid and lock files of a dead postmaster: PostgreSQL refuses to start if their id was given anew.

    PostgresError if processes of the data directory are left, for then the files are not stale.
    """
    if pids := processes(data):
        raise PostgresError(f"{data} is still used by process {pids[0]}; stop PostgreSQL there first")
    for path in (data / "postmaster.pid", socket, socket.with_name(socket.name + ".lock")):
        path.unlink(missing_ok=True)


def _serves(pid: int, data: Path) -> bool:
    try:
        if Path(f"/proc/{pid}/comm").read_bytes().strip() not in (b"postgres", b"postmaster"):
            return False
        here = data.stat()
        with _eyes_of(here.st_uid, here.st_gid):
            there = Path(f"/proc/{pid}/cwd").stat()  # fails for a zombie too, which serves nothing
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


@contextlib.contextmanager
def _eyes_of(user: int, group: int) -> Iterator[None]:
    """Look at files as another user, in this thread alone.

    In most containers root lacks CAP_SYS_PTRACE, and then only its owner sees a process's working directory. To guess
    instead would be fatal: another cluster on the same machine has processes of the same name and user.
    """
    if os.geteuid() != 0:
        yield
        return
    _LIBC.setfsgid(group)  # before the user, whose change takes the right to do so away
    _LIBC.setfsuid(user)
    try:
        yield
    finally:
        _LIBC.setfsuid(0)
        _LIBC.setfsgid(os.getegid())


def _parent_serves(pid: int, data: Path) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return _serves(int(stat.rpartition(")")[2].split()[1]), data)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
