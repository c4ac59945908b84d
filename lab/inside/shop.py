"""A small service as a front end would run it: objects in PostgreSQL, found through search, both behind the VIP only.

PUT /objects/NAME (a JSON object), GET /objects/NAME, GET /search?q=TEXT. Each request has PATIENCE seconds: what fails
on the way is tried again until then, so that a failover makes an answer late instead of wrong. Its argument is a file
with `vip`, `user`, `password` as JSON. Runs in Salt's Python, which has psycopg2.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import psycopg2

T = TypeVar("T")
PORT = 8080
PATIENCE = 10.0
STEP = 2.0  # one attempt, seconds
PAUSE = 0.1
CA = Path("/etc/chefha/tls/ca.crt")
TABLE = "lab_shop"
INDEX = "lab-shop"
UPSERT = f"INSERT INTO {TABLE} VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET content = excluded.content"


class Late(Exception):
    """A request's time is up; the text is what went wrong last."""


class Refused(Exception):
    """The far side answered, and would answer the same again."""


def insist(attempt: Callable[[], T], until: float) -> T:
    """Try again until a monotonic time; Late with the last failure."""
    while True:
        try:
            return attempt()
        except (psycopg2.Error, OSError) as error:
            if time.monotonic() + PAUSE > until:
                raise Late(" ".join(str(error).split())) from error
            time.sleep(PAUSE)


class Database:
    """PostgreSQL behind the VIP, with a connection for each thread that asks, made anew after any failure."""

    def __init__(self, vip: str, user: str, password: str) -> None:
        tls = {"sslmode": "verify-full", "sslrootcert": str(CA)} if CA.exists() else {"sslmode": "prefer"}
        # A leader that is gone says nothing; the kernel's probes go to the new one, which knows no such session.
        self._how: dict[str, Any] = {
            "host": vip, "user": user, "password": password, "dbname": "postgres", "connect_timeout": int(STEP),
            "tcp_user_timeout": int(STEP * 1000), "keepalives_idle": 1, "keepalives_interval": 1,
            "keepalives_count": int(STEP), "application_name": "lab-shop",
            "options": f"-c statement_timeout={int(STEP * 1000)}", **tls,
        }  # fmt: skip
        self._own = threading.local()

    def run(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        """One statement in a transaction of its own; its rows."""
        connection: Any = getattr(self._own, "connection", None)
        try:
            if connection is None:
                connection = self._own.connection = psycopg2.connect(**self._how)
                connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.errors.UndefinedTable:
            with contextlib.suppress(psycopg2.Error), connection.cursor() as cursor:  # others may do the same
                cursor.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (name text PRIMARY KEY, content jsonb)")
            raise
        except psycopg2.Error:
            self._own.connection = None
            if connection is not None:
                with contextlib.suppress(psycopg2.Error):
                    connection.close()
            raise


class Search:
    """The search engine behind the VIP."""

    def __init__(self, vip: str) -> None:
        self._url = f"http://{vip}:9200/{INDEX}"

    def put(self, name: str, content: Any) -> None:
        """Index an object; it can be found within a second."""
        self._ask("PUT", f"/_doc/{urllib.parse.quote(name, safe='')}?timeout={int(STEP)}s", content)

    def find(self, text: str) -> list[str]:
        """Names of objects in which the text is found. What was never indexed has no matches."""
        query = {"query": {"query_string": {"query": text, "lenient": True}}, "size": 100, "_source": False}
        found = self._ask("POST", "/_search?ignore_unavailable=true", query)
        return [hit["_id"] for hit in found["hits"]["hits"]]

    def _ask(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=STEP) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if 400 <= error.code < 500 and error.code not in (408, 429):
                raise Refused(f"search: {error.read(300).decode(errors='replace')}") from error
            raise


class Handler(BaseHTTPRequestHandler):
    """One client's connection, on a thread of its own."""

    database: Database
    search: Search
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self._answer(self._put)

    def do_GET(self) -> None:
        self._answer(self._find if self.path.startswith("/search?") else self._get)

    def _put(self, until: float) -> tuple[int, Any]:
        name = self._name()
        content = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if not name or not isinstance(content, dict):
            return 400, {"error": "expected PUT /objects/NAME with a JSON object"}
        insist(lambda: self.database.run(UPSERT, name, json.dumps(content)), until)
        insist(lambda: self.search.put(name, content), until)
        return 200, {"name": name}

    def _get(self, until: float) -> tuple[int, Any]:
        name = self._name()
        rows = insist(lambda: self.database.run(f"SELECT content FROM {TABLE} WHERE name = %s", name), until)
        return (200, rows[0][0]) if rows else (404, {"error": f"no object {name}"})

    def _find(self, until: float) -> tuple[int, Any]:
        text = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get("q", ["*"])[0]
        return 200, {"names": insist(lambda: self.search.find(text), until)}

    def _name(self) -> str:
        """The NAME of /objects/NAME; empty for other paths."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        return path.removeprefix("/objects/") if path.startswith("/objects/") else ""

    def _answer(self, work: Callable[[float], tuple[int, Any]]) -> None:
        try:
            code, content = work(time.monotonic() + PATIENCE)
        except Late as error:
            code, content = 503, {"error": str(error)}
        except Refused as error:
            code, content = 502, {"error": str(error)}
        except ValueError as error:
            code, content = 400, {"error": f"not JSON: {error}"}
        body = json.dumps(content).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a line per request would be most of the journal."""


def main(file: str) -> None:
    """Serve until ended."""
    conf = json.loads(Path(file).read_text())
    Handler.database = Database(conf["vip"], conf["user"], conf["password"])
    Handler.search = Search(conf["vip"])
    server = ThreadingHTTPServer(("", PORT), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
