"""What a front end's states do: wait for the back end, carry files over, let Chef configure itself, publish.

The first front end, by name, lets Chef make its users and databases, and publishes the files that came of it. The
others, and a first one that was made anew, take those before Chef runs there for the first time. Each function returns
what changed, by name, or would (``test``); VerbError is one sentence, OSError where the disk gives or takes no file.
Nothing here shows a secret.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chefha_core.chef_server import chef_server_rb, fqdn_of
from chefha_core.parts import front_door, frontend_files
from chefha_core.parts.frontend_files import Piece, Pieces
from chefha_core.parts.postgres_sql import Session
from chefha_core.parts.postgres_tools import PostgresError
from chefha_core.settings import Settings
from chefha_core.verbs import config
from chefha_core.verbs.reach import VerbError

CTL = Path("/usr/bin/chef-server-ctl")
#: what was done already, beside the checksums it was done with
MEMORY = "/var/lib/chefha/frontend.json"
#: seconds for one visit of the database, and between two
VISIT, PAUSE = 15.0, 2.0
#: seconds that dpkg may take to say what is installed
DPKG = 20.0
TAIL = 15
#: shorter values are no secrets, and would mask what people must read
LEAST_SECRET = 6
#: seconds for which publishing sits out a failover
FAILOVER = 120.0
Changes = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Memory:
    """What this front end remembers between two runs of its states."""

    #: path: checksum of what was carried to here; Chef may have changed the file since
    carried: dict[str, str] = field(default_factory=dict)
    #: of what Chef last configured itself with
    configured: str = ""
    #: Chef has configured itself here at least once
    ever: bool = False


@dataclass(frozen=True)
class FrontEnd:
    """One front end; ``root`` and ``ctl`` are other places in tests."""

    settings: Settings
    name: str
    root: Path = Path("/")
    ctl: Path = CTL

    @property
    def first(self) -> str:
        """The front end that lets Chef make its users and databases."""
        return min(self.settings.frontends)

    @property
    def memory(self) -> Memory:
        try:
            return Memory(**json.loads((self.root / MEMORY.lstrip("/")).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Memory()
        except (ValueError, TypeError) as error:
            raise VerbError(f"{MEMORY} cannot be read ({error}); remove it, and Chef is configured once more") from None

    def remember(self, **changes: Any) -> None:
        """Write down what was done."""
        text = json.dumps(dataclasses.asdict(dataclasses.replace(self.memory, **changes)), indent=2, sort_keys=True)
        frontend_files.write(Piece(MEMORY, text.encode()), self.root)


def backend_problem(settings: Settings) -> str:
    """Why this front end cannot use the back end now, one sentence; "" if it can."""
    user, password = settings.postgresql.db_superuser, settings.secrets.superuser_password
    try:
        with front_door.primary(settings, user, password, time.monotonic() + VISIT) as (_, session):
            session.rows("SELECT 1", time.monotonic() + front_door.LOGIN)
    except PostgresError as error:
        return f"PostgreSQL of the back end does not let {user} in to write: {error}"
    if settings.search.flavor == "none":
        return ""
    try:
        health = front_door.search(settings, "/_cluster/health", front_door.LOGIN)
    except (OSError, ValueError) as error:
        return f"search of the back end does not answer: {error}"
    return "" if health.get("status") in ("green", "yellow") else f"search of the back end is {health.get('status')}"


# ---- files from the first front end to the others


def carry(front: FrontEnd, timeout: float, test: bool = False) -> Changes:
    """The published files are here before Chef configures itself; the others wait for them, the first does not."""
    if front.name == front.first and front.memory.ever:
        return {}  # what is here is what it publishes
    try:
        pieces = _patiently(lambda: _awaited(front, timeout), 0 if test else timeout)
    except VerbError:
        if test and front.name == front.first:
            return {}  # as far as can be seen there is no back end yet, so nothing was ever published
        raise
    return _take(front, pieces, test) if pieces else {}


def _awaited(front: FrontEnd, timeout: float) -> Pieces:
    """All that was published; nothing where Chef shall make everything here; VerbError while it must be waited for."""
    with _database(front) as (session, until):
        pieces = frontend_files.published(session, until)
    lacking = frontend_files.missing(pieces)
    if lacking and front.name != front.first:
        raise VerbError(
            f"{front.first}, the first front end, has not published {lacking} yet (waited for {timeout:g} s at most): "
            "look at its states, Chef must not configure itself here without them"
        )
    return {} if lacking else pieces


def _patiently(action: Callable[[], T], timeout: float) -> T:
    """The action's result as soon as it succeeds: a failover, or another front end, may be under way."""
    until = time.monotonic() + timeout
    while True:
        try:
            return action()
        except VerbError:
            if time.monotonic() >= until:
                raise
            time.sleep(PAUSE)


def _take(front: FrontEnd, pieces: Pieces, test: bool) -> Changes:
    here, carried = frontend_files.local(front.root), front.memory.carried
    due = {
        path: piece
        for path, piece in pieces.items()
        if path not in here or (piece.sha256 not in (here[path].sha256, carried.get(path)))
    }
    changes: Changes = {path: "carried over" if path in here else "carried over, new" for path in due}
    if not frontend_files.is_bootstrapped(front.root):
        changes[frontend_files.SENTINEL] = "touched"
    if not test:
        for piece in due.values():
            frontend_files.write(piece, front.root)
        frontend_files.mark_bootstrapped(front.root)
        if (now := {path: piece.sha256 for path, piece in pieces.items()}) != carried:
            front.remember(carried=now)
    return changes


def publish(front: FrontEnd, test: bool = False) -> Changes:
    """What Chef made on the first front end is in the database, for the others."""
    if front.name != front.first:
        return {}
    if not front.memory.ever:
        raise VerbError(
            f"chef-server-ctl reconfigure has not succeeded on {front.name} yet: nothing is published before"
        )
    here = frontend_files.local(front.root)
    if lacking := frontend_files.missing(here):
        raise VerbError(f"chef-server-ctl reconfigure has made no {lacking} on {front.name}, which the others need")
    due = _patiently(lambda: _publish(front, here, test), 0 if test else FAILOVER)
    return {piece.path: "published" for piece in due}


def _publish(front: FrontEnd, here: Pieces, test: bool) -> list[Piece]:
    with _database(front) as (session, until):
        there = frontend_files.published(session, until)
        due = [piece for path, piece in here.items() if path not in there or there[path].sha256 != piece.sha256]
        if due and not test:
            frontend_files.publish(session, due, front.name, until)
    return due


@contextlib.contextmanager
def _database(front: FrontEnd) -> Iterator[tuple[Session, float]]:
    """A session with the primary that leaves no trace of its statements; VerbError for everything that fails."""
    settings, until = front.settings, time.monotonic() + VISIT
    user, password = settings.postgresql.db_superuser, settings.secrets.superuser_password
    try:
        with front_door.primary(settings, user, password, until, silent=True) as (_, session):
            yield session, until
    except PostgresError as error:
        raise VerbError(
            f"the files of the front ends cannot be read or written through the back end: {error}"
        ) from None


# ---- chef-server-ctl reconfigure


def reconfigure(front: FrontEnd, timeout: float, test: bool = False, anyway: bool = False) -> Changes:
    """Chef has configured itself with the present settings and carried files; ``anyway``: its files were changed."""
    reason = "its files were changed" if anyway else _due(front, test)
    if not reason:
        return {}
    if not test:
        front.remember(configured="")  # a run that fails halfway is repeated
        _run(front, timeout)
        front.remember(configured=_digest(front), ever=True)
    return {"chef-server-ctl reconfigure": reason}


def _due(front: FrontEnd, test: bool) -> str:
    memory = front.memory
    if not memory.configured:
        return "it has not run successfully yet"
    if memory.configured != _digest(front):
        return "settings, carried files or the package have changed"
    return "carried files would change" if test and carry(front, 0, test=True) else ""


def _digest(front: FrontEnd) -> str:
    """What Chef configures itself with. The state of the package tells of a new one only in the run that installs it:
    should a later state fail in that run, the next run knows by the version that is here."""
    settings = front.settings
    text = chef_server_rb(settings, fqdn_of(settings, front.name))
    parts = [
        text,
        settings.frontend.chef_server_version,
        settings.frontend.source,
        settings.frontend.checksum,
        _installed(front),
        json.dumps(front.memory.carried, sort_keys=True),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _installed(front: FrontEnd) -> str:
    """What dpkg knows of Chef's package, its version with it; "" if nothing."""
    package, format = front.settings.frontend.package, "${db:Status-Status} ${Version}"
    command = ["dpkg-query", f"--admindir={front.root / 'var/lib/dpkg'}", f"--showformat={format}", "--show", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DPKG, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerbError(f"dpkg does not say which {package} is installed: {error}") from None
    if done.returncode > 1:
        raise VerbError(f"dpkg does not say which {package} is installed: {done.stderr.strip()}")
    return done.stdout


def _run(front: FrontEnd, timeout: float) -> None:
    """Run it with a deadline; VerbError with its last lines, in which no secret is left."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    if front.settings.frontend.accept_license:
        environment["CHEF_LICENSE"] = "accept"
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [str(front.ctl), "reconfigure"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise VerbError(
                f"{front.ctl} cannot be run ({error.strerror}): is the front end's package there?"
            ) from None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
        output.seek(0)
        lines = output.read().decode("utf-8", "replace").splitlines()
    if code != 0:
        how = f"did not end within {timeout:g} s" if code is None else f"failed with exit code {code}"
        last = "\n".join(without_secrets(lines[-TAIL:], _secrets(front)))
        raise VerbError(f"chef-server-ctl reconfigure {how}; its last lines:\n{last}")


def _secrets(front: FrontEnd) -> set[str]:
    """Every text that must not be shown: chefha's passwords, those in further settings, and all that Chef made."""
    found = set(config.secret_values(front.settings.to_dict()))
    for piece in frontend_files.local(front.root).values():
        with contextlib.suppress(ValueError):
            found |= set(_texts(json.loads(piece.content)))
    quoted = {json.dumps(text)[1:-1] for text in found}  # as programs print a text with quotes in it
    return {text for text in found | quoted if len(text) >= LEAST_SECRET}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def without_secrets(lines: Iterable[str], secrets: Iterable[str]) -> list[str]:
    """Lines of output, with stars for every secret in them, the longest first."""
    ordered = sorted(secrets, key=len, reverse=True)
    cleaned = []
    for line in lines:
        for secret in ordered:
            line = line.replace(secret, "********")
        cleaned.append(line)
    return cleaned
