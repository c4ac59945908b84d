"""gather-logs: what somebody needs who looks for a fault on this node, in one archive, without a secret.

Each part is had on its own, with a deadline and a bound on its size; what cannot be had is named in ``missing.txt``.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from chefha_core.layout.etcd import CONFIG_FILE as ETCD_CONFIG
from chefha_core.layout.etcd import token_key
from chefha_core.layout.firewall import FILE as FIREWALL_FILE
from chefha_core.layout.firewall import TABLE
from chefha_core.layout.postgresql import FILES as POSTGRESQL_FILES
from chefha_core.parts.etcd import EtcdError
from chefha_core.parts.postgres_tools import OS_USER, Places
from chefha_core.search_engine import CONFIG as SEARCH_CONFIG
from chefha_core.settings import Settings
from chefha_core.verbs import cluster_status, config, status, version
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client
from chefha_core.verbs.services import MINION_LOG, services_of
from chefha_core.verbs.steps import OnStep, StepLog, nobody_looks

FOLDER = "/root"
#: bytes of one part at the most, uncompressed: of a log the end
MOST = 20_000_000
#: lines of the journal per service
JOURNAL_LINES = 50_000
#: seconds that one command may take
DEADLINE = 20.0
MASK = b"********"
#: shorter ones would blacken innocent words
LEAST_SECRET = 6
QUERIES = {
    "replication": "select * from pg_stat_replication",
    "receiver": "select * from pg_stat_wal_receiver",
    "slots": "select * from pg_replication_slots",
    "activity": "select pid, usename, datname, application_name, client_addr, state, wait_event, backend_start,"
    " xact_start, query_start from pg_stat_activity",
    "settings": "select name, setting, source from pg_settings where source <> 'default'"
    " and name not in ('primary_conninfo')",
    "databases": "select datname, pg_size_pretty(pg_database_size(oid)) from pg_database where datallowconn",
}


class Missing(Exception):
    """Why a part could not be had."""


@dataclass(frozen=True)
class Part:
    """One file of the archive; ``write`` puts it into a file, or raises Missing."""

    name: str
    write: Callable[[IO[bytes]], None]


def gather_logs(settings: Settings, name: str, folder: str = FOLDER, on_step: OnStep = nobody_looks) -> dict[str, Any]:
    """Write the archive, 0600, into ``folder``; its path, its size in bytes, and what is missing in it."""
    if not Path(folder).is_dir():
        raise VerbError(f"gather-logs: {folder} is no folder; name one that is there")
    steps, at = StepLog(on_step), datetime.datetime.now(datetime.UTC)
    stem = f"chefha-logs-{name}-{at:%Y-%m-%d-%H-%M-%S}"
    path = Path(folder, f"{stem}.tgz")
    hide = Redactor(secrets_of(settings))
    missing: dict[str, str] = {}
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as raw, tarfile.open(fileobj=raw, mode="w|gz") as archive:
            for part in parts(settings, name):
                problem = _add(archive, f"{stem}/{part.name}", part.write, hide)
                if problem:
                    missing[part.name] = problem
                steps.done(part.name, "missing" if problem else "done")
            rows = "".join(f"{part}: {why}\n" for part, why in missing.items()) or "nothing\n"
            _add(archive, f"{stem}/missing.txt", _text(lambda: rows), hide)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise VerbError(
            f"gather-logs: {path} cannot be written: {error}; is there room? nothing was left there"
        ) from None
    return {"path": str(path), "bytes": path.stat().st_size, "missing": missing}


def secrets_of(settings: Settings) -> set[str]:
    """Every secret that this node knows, line by line where it has several."""
    found = set(config.secret_values(settings.to_dict()))
    if settings.secrets.etcd_root_password:
        found.add(token_key(settings))
    for file in ("server.key", "etcd.key"):  # the key stands in no settings file
        with contextlib.suppress(OSError):
            found.add(Path(settings.tls.directory, file).read_text(encoding="ascii"))
    lines = {line.strip() for text in found for line in text.splitlines() if not line.startswith("-----")}
    return {line for line in lines if len(line) >= LEAST_SECRET}


class Redactor:
    """Blackens secrets in a file, line by line, so that none escapes at the border of two pieces."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = sorted((secret.encode() for secret in secrets), key=len, reverse=True)

    def line(self, text: bytes) -> bytes:
        """The line without secrets."""
        for secret in self.secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        return text


def parts(settings: Settings, name: str) -> Iterator[Part]:
    """Everything that goes into the archive of this node."""
    yield Part("versions.json", _json(lambda: version.version(settings)))
    yield Part("config.yaml", _text(lambda: config.to_yaml({"chefha": config.shown(settings)})))
    yield Part("cluster-status.json", _json(lambda: cluster_status.cluster_status(settings, name)))
    if name in settings.members:
        yield Part("status.txt", _text(lambda: status.table(status.status(settings, name)) + "\n"))
        yield from _member(settings, name)
    for service, unit in services_of(settings, name).items():
        log = ["journalctl", "--quiet", "--no-pager", "-o", "short-iso-precise", "-n", str(JOURNAL_LINES), "-u", unit]
        yield Part(f"journal/{service}.log", _command(log))
        yield Part(
            f"units/{service}.txt", _command(["systemctl", "--no-pager", "status", "--lines=0", unit], any_end=True)
        )
    yield Part("logs/salt-minion.log", _end_of(Path(MINION_LOG)))
    for file, command in MACHINE.items():
        yield Part(f"machine/{file}.txt", _command(command))


#: what is asked of the machine
MACHINE = {
    "kernel": ["uname", "-a"],
    "uptime": ["uptime"],
    "memory": ["free", "-m"],
    "disks": ["df", "-h"],
    "inodes": ["df", "-i"],
    "mounts": ["findmnt", "--real"],
    "addresses": ["ip", "-d", "address"],
    "routes": ["ip", "route"],
    "neighbours": ["ip", "neighbour"],
    "sockets": ["ss", "-tanp"],
    "firewall": ["nft", "list", "table", *TABLE.split()],
    "processes": ["ps", "axww", "-o", "pid,ppid,user,stat,rss,etime,time,cmd"],
    "packages": ["dpkg-query", "-W"],
    "clock": ["date", "+%F %T.%N %z"],
}


def _member(settings: Settings, name: str) -> Iterator[Part]:
    places = Places.of(settings)
    yield Part("etcd/keys.json", _json(lambda: _etcd_keys(settings, name)))
    control = [str(places.bin / "pg_controldata"), "-D", str(places.data)]
    yield Part("postgresql/pg_controldata.txt", _command(control))
    for what, query in QUERIES.items():
        psql = [str(places.bin / "psql"), "-X", "-h", str(places.sockets), "-p", str(places.port), "-d", "postgres"]
        asked = ["runuser", "-u", OS_USER, "--", *psql, "-P", "pager=off", "-c", query]
        yield Part(f"postgresql/{what}.txt", _command(asked, {"PGCONNECT_TIMEOUT": "5"}))
    for path in _configuration():
        yield Part(f"configuration/{path.name}", _end_of(path))
    if settings.search.flavor != "none":
        logs = sorted(Path(settings.search.log_dir).glob("*.log"), key=lambda log: log.stat().st_mtime)
        for log in logs[-3:]:
            yield Part(f"logs/{settings.search.flavor}/{log.name}", _end_of(log))


def _configuration() -> Iterator[Path]:
    yield from (Path(ETCD_CONFIG), Path(FIREWALL_FILE))
    yield from sorted(Path(POSTGRESQL_FILES).glob("*.conf"))
    yield from (path for path in sorted(Path(SEARCH_CONFIG).glob("*")) if path.suffix in (".yml", ".properties"))
    yield from sorted(Path("/etc/systemd/system").glob("chefha-*.service"))


def _etcd_keys(settings: Settings, name: str) -> dict[str, Any]:
    client = etcd_client(settings, name, PATIENCE)
    try:
        snapshot = client.range()
        return {"revision": snapshot.revision, "keys": {key: kv.value for key, kv in snapshot.kvs.items()}}
    except EtcdError as error:
        raise Missing(str(error)) from None
    finally:
        client.close()


def _add(archive: tarfile.TarFile, name: str, write: Callable[[IO[bytes]], None], hide: Redactor) -> str:
    """One part into the archive, by way of a file that has no name; why it is missing, "" if it is not."""
    with tempfile.TemporaryFile() as made, tempfile.TemporaryFile() as clean:
        try:
            write(made)
            problem = ""
        except (Missing, VerbError, OSError, ValueError) as error:
            problem = " ".join(str(error).split()) or type(error).__name__
        _seek_end(made)
        for line in made:
            clean.write(hide.line(line))
        if problem and not clean.tell():
            return hide.line(problem.encode()).decode()
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = clean.tell(), 0o600, int(time.time())
        clean.seek(0)
        archive.addfile(member, clean)
        return hide.line(problem.encode()).decode()


def _text(make: Callable[[], str]) -> Callable[[IO[bytes]], None]:
    return lambda file: _write(file, make())


def _json(make: Callable[[], Any]) -> Callable[[IO[bytes]], None]:
    return lambda file: _write(file, json.dumps(make(), indent=2, default=str) + "\n")


def _write(file: IO[bytes], text: str) -> None:
    file.write(text.encode(errors="replace"))


def _end_of(path: Path) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        with path.open("rb") as log:
            _seek_end(log)
            shutil.copyfileobj(log, file)

    return write


def _command(
    command: list[str], more: dict[str, str] | None = None, any_end: bool = False
) -> Callable[[IO[bytes]], None]:
    """What a command prints; Missing if it fails, unless ``any_end`` is as good."""

    def write(file: IO[bytes]) -> None:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, timeout=DEADLINE,
                env={**os.environ, "LC_ALL": "C", **(more or {})}, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise Missing(f"{command[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise Missing(f"{command[0]} did not end within {DEADLINE:g} s") from None
        if done.returncode and not any_end:
            raise Missing(done.stderr.decode(errors="replace").strip() or f"{command[0]} ended with {done.returncode}")

    return write


def _seek_end(file: IO[bytes]) -> None:
    """To where the last MOST bytes begin, at the beginning of a line: half of one could hold half a secret."""
    size = file.seek(0, os.SEEK_END)
    if file.seek(max(0, size - MOST)):
        file.readline()
