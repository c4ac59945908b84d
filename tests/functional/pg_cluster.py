"""Real PostgreSQL servers for the tests: on 127.0.0.1 to 127.0.0.3 with sockets of their own, ended by process id.

``CHEFHA_PG_BIN`` names the folder of another version's programs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg2
import psycopg2.extensions

from chefha_core import secrets
from chefha_core.layout import postgres_files
from chefha_core.model import PgFacts, PgState
from chefha_core.parts import postmaster
from chefha_core.parts.postgres import ChildUnit, Places, Postgres
from chefha_core.parts.postgres_monitor import PostgresMonitor
from chefha_core.settings import SECRETS_OF, Settings, from_pillar

MEMBERS = {"be-1": "127.0.0.1", "be-2": "127.0.0.2", "be-3": "127.0.0.3"}
SUPERUSER, PASSWORD = "chef_pgsql", "geheim: \\ 'x'"


def newest_bin() -> str:
    """Folder of the programs to test with; "" if there are none."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    return os.environ.get("CHEFHA_PG_BIN") or (str(folders[-1].parent) if folders else "")


def usable() -> str:
    """Why the tests cannot run here; "" if they can."""
    if not newest_bin():
        return "no PostgreSQL in /usr/lib/postgresql"
    if os.geteuid() != 0:
        return "root is needed to run PostgreSQL as its own user"
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return "there is no user postgres"
    return ""


@dataclasses.dataclass
class Node:
    """One member."""

    name: str
    address: str
    settings: Settings
    places: Places
    postgres: Postgres

    def wait(self, wish: Callable[[PgFacts], bool], timeout: float = 10.0, history_from: str = "") -> PgFacts:
        """Look until the facts are as wished."""
        until = time.monotonic() + timeout
        while not wish(facts := self.postgres.observe(history_from)):
            assert time.monotonic() < until, f"{self.name}: {facts}"
            time.sleep(0.01)
        return facts

    def connect(self) -> psycopg2.extensions.connection:
        """As a client, over TCP."""
        connection = psycopg2.connect(
            host=self.address, port=self.places.port, user=SUPERUSER, password=PASSWORD, dbname="postgres"
        )
        connection.autocommit = True
        return connection

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def pid(self) -> int:
        alive = postmaster.find(self.places.data)
        assert alive is not None
        return alive.pid

    def log(self) -> str:
        unit = self.postgres.unit
        assert isinstance(unit, ChildUnit)
        return unit.log.read_text(encoding="utf-8", errors="replace")

    def lay_out(self) -> None:
        """What the states do, but with addresses and folders of the test."""
        conf = self.places.config.parent
        conf.mkdir(parents=True)
        for text, file in (
            (postgres_files.postgresql_conf(self.settings, self.name), "postgresql.conf"),
            (postgres_files.pg_hba_conf(self.settings), "pg_hba.conf"),
            (postgres_files.pg_ident_conf(), "pg_ident.conf"),
        ):
            text = text.replace(postgres_files.FOLDER, str(conf)).replace(
                postgres_files.SOCKETS, str(self.places.sockets)
            )
            self.places.write(
                conf / file, text.replace("listen_addresses = '*'", f"listen_addresses = '{self.address}'")
            )
        for folder in (conf, self.places.sockets, self.places.home):
            folder.mkdir(exist_ok=True, parents=True)
            shutil.chown(folder, "postgres", "postgres")
        if (tls := self.places.tls) is not None and not tls.exists():
            tls.mkdir()
            texts = self.settings.tls
            for file, text in (("ca.crt", texts.ca), ("server.crt", texts.certificate), ("server.key", texts.key)):
                self.places.write(tls / file, text)


class Cluster:
    """Three members, of which none runs yet."""

    def __init__(
        self, root: Path, durability: str = "async", tls: bool = False, more: Mapping[str, object] | None = None
    ) -> None:
        port = _free_port()
        made = secrets.generate(MEMBERS, "127.0.0.9")["tls"] if tls else {}
        shared = {"durability": durability, "tls": {"enabled": tls, "directory": str(root / "tls"), **made}}
        shared |= more or {}
        self.nodes = [_node(root, name, port, shared) for name in MEMBERS]
        for node in self.nodes:
            node.lay_out()

    def first(self) -> Node:
        """The first member as a primary."""
        node = self.nodes[0]
        node.postgres.initdb()
        node.postgres.set_role("")
        node.postgres.start(primary=True, timeout=20)
        return node

    def follow(self, node: Node, leader: Node) -> None:
        """``node`` as a new, streaming standby of ``leader``."""
        leader.postgres.ensure_slots([node.name])
        node.postgres.clone(leader.address, timeout=60)
        node.postgres.set_role(leader.address)
        node.postgres.start(primary=False, timeout=20)
        node.wait(lambda facts: facts.streaming)

    def pair(self) -> tuple[Node, Node]:
        """A primary and its standby."""
        leader, follower = self.first(), self.nodes[1]
        self.follow(follower, leader)
        return leader, follower


@contextlib.contextmanager
def cluster(
    durability: str = "async", tls: bool = False, more: Mapping[str, object] | None = None
) -> Iterator[Cluster]:
    """A cluster below a folder of its own; everything is ended and removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="chefha-pg-"))
    root.chmod(0o755)
    made = Cluster(root, durability, tls, more)
    try:
        yield made
    finally:
        for node in made.nodes:
            node.postgres.stop("immediate", 10)
        shutil.rmtree(root)


@contextlib.contextmanager
def monitored(
    node: Node, interval: float = 5.0, timeout: float = 0.4
) -> Iterator[tuple[PostgresMonitor, list[PgFacts]]]:
    """A running monitor and the changes it reported; by default only events make it look."""
    changes: list[PgFacts] = []
    monitor = PostgresMonitor(node.postgres, interval, changes.append, timeout)
    monitor.look()
    first = monitor.looked_at
    monitor.start()
    while monitor.looked_at == first:
        time.sleep(0.01)
    try:
        yield monitor, changes
    finally:
        monitor.close()
        monitor.join(5)


def await_state(monitor: PostgresMonitor, state: PgState, timeout: float = 5.0) -> float:
    """Seconds until the monitor shows the state."""
    begun = time.monotonic()
    while monitor.facts.state is not state:
        assert time.monotonic() - begun < timeout, monitor.facts
        time.sleep(0.001)
    return time.monotonic() - begun


@contextlib.contextmanager
def load(node: Node, table: str = "load") -> Iterator[list[int]]:
    """A client that inserts one number after the other; the list has those that were acknowledged."""
    node.sql(f"create table if not exists {table} (n int, filler text)")
    done: list[int] = []
    ending = threading.Event()

    def insert() -> None:
        with contextlib.suppress(psycopg2.Error), contextlib.closing(node.connect()) as connection:
            cursor = connection.cursor()
            while not ending.is_set():
                cursor.execute(f"insert into {table} values (%s, repeat('x', 3000))", (len(done),))
                done.append(len(done))

    thread = threading.Thread(target=insert, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        ending.set()
        thread.join(10)


def dump(places: Places, *options: str) -> str:
    """Output of pg_waldump."""
    argv = [str(places.bin / "pg_waldump"), "-p", str(places.data / "pg_wal"), *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout


def _node(root: Path, name: str, port: int, shared: Mapping[str, object]) -> Node:
    home = root / name / "pg"
    pillar = {
        "members": MEMBERS,
        "vip": "127.0.0.9",
        "secrets": {
            **dict.fromkeys(SECRETS_OF["backend"], "t" * 32),
            "superuser_password": PASSWORD,
            "replication_password": "a:b\\c'd",
        },
        **shared,
        "postgresql": {"data_dir": str(home / "data"), "port": port, "bin_dir": newest_bin(), "shared_buffers_mb": 16},
    }
    settings = from_pillar(pillar)
    places = Places(
        home / "data",
        Path(settings.pg_bin),
        port,
        config=root / name / "conf" / "postgresql.conf",
        sockets=root / name / "run",
        permit=root / name / "permit",
        tls=root / "tls" if settings.tls.enabled else None,
    )
    unit = ChildUnit(places, root / name / "log")
    return Node(name, MEMBERS[name], settings, places, Postgres(settings, name, unit, places))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
