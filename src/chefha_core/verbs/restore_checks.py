"""What a restoration is refused for before anything is done, and where an archive comes from."""

from __future__ import annotations

import datetime
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from chefha_core.backup import archive, wal
from chefha_core.backup.archive import About
from chefha_core.backup.chain import extract_chain
from chefha_core.backup.compression import expanded
from chefha_core.backup.stores import Directory, Store, open_store
from chefha_core.model import EtcdView, LeaderState, parse_lsn
from chefha_core.parts import postgres_sql as sql
from chefha_core.parts.postgres_restore import Target
from chefha_core.parts.postgres_tools import Places, PostgresError
from chefha_core.plan.restore import why_data
from chefha_core.settings import Settings
from chefha_core.verbs.reach import VerbError

#: timelines after the last one found in the archived log at which another is looked for; leaders take every fourth
AHEAD = 64


class Source:
    """An archive: a file of this machine, or one of the configured store by its name; with those it is based on."""

    def __init__(self, settings: Settings, path: str) -> None:
        named = Path(path).absolute()
        in_store = "/" not in path and not named.exists()
        self._store: Store = open_store(settings.backup) if in_store else Directory(named.parent)
        self._name = path if in_store else named.name
        self._settings = settings
        self.label = self._store.where(self._name)

    def about(self) -> About:
        """What it says of itself."""
        with self._store.read(self._name) as stream:
            return archive.read_about(stream)

    def extract(self, folder: Path, places: Places, timeout: float, on_progress: Callable[[str, int], None]) -> About:
        """Everything checked, the data directory written to ``folder``."""
        return extract_chain(self._store, self._name, folder, places, timeout, on_progress)

    def target(self, moment: datetime.datetime | None, about: About, data: Path) -> Target:
        """Where the replay ends, and along which timeline; ``data`` is what was extracted."""
        if moment is None:
            return Target()
        timeline = newest_timeline(open_store(self._settings.backup), about, data)
        return Target(moment.isoformat(sep=" "), wal.restore_command(), timeline)


def moment(text: str) -> datetime.datetime | None:
    """``--target-time`` as a time, in UTC where it names no zone; VerbError if it is none, or to come."""
    if not text:
        return None
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise VerbError(
            f"restore: --target-time {text!r} is no time; expected such as 2026-11-25T04:30:00+01:00"
        ) from None
    found = found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    if found > datetime.datetime.now(datetime.UTC):
        raise VerbError(f"restore: --target-time {found.isoformat()} is in the future; nothing was changed")
    return found


def time_refusal(moment: datetime.datetime | None, about: About) -> str:
    """Why the data cannot be that of ``moment`` by what the archive says of itself, "" if it may be; pure."""
    begun = datetime.datetime.fromisoformat(about.time)
    if moment is None or moment > begun:
        return ""
    return f"--target-time {moment} is before this archive, which was begun at {begun}; take an older archive"


def newest_timeline(store: Store, about: About, data: Path) -> int:
    """The last timeline in the archived log that goes on from the backup: whatever was acknowledged is on its way."""
    found = looked_at = about.timeline
    while looked_at < found + AHEAD:
        looked_at += 1
        name = wal.place(f"{looked_at:08X}.history", data)
        if not store.has(name):
            continue
        with store.read(name) as stream, expanded(stream, lambda done: None) as plain:
            rows = sql.parse_history(plain.file.read().decode("utf-8", "replace"))
        if any(row.timeline == about.timeline and row.lsn >= parse_lsn(about.start_lsn) for row in rows):
            found = looked_at
    return found


def refusal(settings: Settings, view: EtcdView, name: str) -> str:
    """Why this node cannot restore now, "" if it can; pure."""
    leader, request = view.leader, view.restore
    if leader is None:
        return "the cluster has no leader now; see why with cluster-status"
    if leader.name != name:
        return f"{name} is not the leader, {leader.name} is; run it there"
    if request is not None and request.epoch == leader.epoch:
        return f"the restoration of {request.source}, asked for by {request.by}, is under way; wait for its end"
    if view.intent is not None and view.intent.epoch == leader.epoch:
        return f"a hand-over to {view.intent.to or 'anybody'} is under way; wait for its end"
    gone = leader.state is LeaderState.RELEASING and not why_data(view, settings.members)  # nobody's data is left
    if leader.state is not LeaderState.LEADING and not gone:
        return f"{leader.name} is {leader.state} at the moment; try again when it leads"
    if view.config is None:
        return "etcd has no configuration of this cluster; apply its states first"
    report = view.members.get(name)
    if report is None:
        return f"leaderl of {name}, which would carry it out, does not report; see systemctl status chefha-leaderl"
    return ""


def archive_refusal(settings: Settings, view: EtcdView, about: About, foreign: bool, places: Places) -> str:
    """Why this archive must not be restored here, "" if it may be."""
    version = server_version(places)
    if about.server_version // 10000 != version:
        return (
            f"the archive is of PostgreSQL {about.server_version // 10000} and this cluster has {version}; "
            "restore it into a cluster of its version, and bring the data over with pg_dumpall"
        )
    return "" if foreign else foreign_refusal(settings, view, about, lambda: has_own_data(places))


def foreign_refusal(settings: Settings, view: EtcdView, about: About, own_data: Callable[[], bool]) -> str:
    """Why the archive counts as somebody else's, "" if it is this cluster's own; pure but for ``own_data``.

    Its own: the same name, and a system identifier that this cluster has or had. The same name alone is enough where
    nothing is lost: in a cluster that was formed anew and has no data yet.
    """
    config = view.config
    assert config is not None
    of = f"the archive is of the cluster {about.cluster} (system identifier {about.system_identifier})"
    if about.cluster != settings.cluster:
        return f"{of} and this is {settings.cluster}; add --foreign if its data shall replace this cluster's"
    if about.system_identifier in (config.system_id, *config.former) or not own_data():
        return ""
    return (
        f"{of}, and this cluster, which has data of its own, never had that identifier (now: {config.system_id}); "
        "add --foreign if that data shall be replaced"
    )


def has_own_data(places: Places) -> bool:
    """False if the running PostgreSQL has nothing in it but what initdb made; True also if it cannot be asked."""
    until = time.monotonic() + 5.0
    databases = "select count(*) from pg_database where datname not in ('postgres', 'template0', 'template1')"
    tables = (
        "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where c.relkind in ('r', 'm', 'S', 'p') and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema'"
    )
    try:
        with sql.session(sql.local_dsn(places), until) as local:
            return any(local.rows(question, until)[0][0] for question in (databases, tables))
    except PostgresError:
        return True


def server_version(places: Places) -> int:
    """Major version of the PostgreSQL that is installed here."""
    try:
        said = subprocess.run([places.bin / "postgres", "-V"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerbError(f"restore: {places.bin / 'postgres'} cannot be run: {error}; nothing was changed") from None
    found = re.search(r"(\d+)", said)
    return int(found.group(1)) if found else 0
