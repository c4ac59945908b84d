"""The back end as a front end sees it: PostgreSQL and search through the virtual address, or the members themselves.

With ``frontend:way members`` there is no such address: each member is tried until one is the writable primary.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from chefha_core.parts.postgres_sql import Refused, Session, value
from chefha_core.parts.postgres_tools import PostgresError
from chefha_core.settings import Settings

#: seconds for the log-in to one address: a cut-off host must not use up the time of the others
LOGIN = 3.0
#: what keeps statements with secrets in them out of the log and out of the lists of what runs; superusers only
_SILENT = (
    "-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic -c track_activities=off"
)


def addresses(settings: Settings) -> tuple[str, ...]:
    """Where the back end is asked, one after the other."""
    if settings.frontend.way == "members":
        return tuple(address for _, address in sorted(settings.members.items()))
    return (settings.vip,)


def dsn(settings: Settings, address: str, user: str, password: str, silent: bool = False) -> str:
    """To the writable primary behind an address, whose certificate must name it."""
    ca = PurePosixPath(settings.tls.directory) / "ca.crt"
    parts = [
        f"host={address} port={settings.postgresql.port} dbname=postgres",
        f"user={value(user)} password={value(password)}",
        "application_name=chefha target_session_attrs=read-write gssencmode=disable",
        "keepalives_idle=3 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000",
        f"sslmode=verify-full sslrootcert={value(str(ca))}" if settings.tls.enabled else "sslmode=disable",
        f"options={value(_SILENT)}" if silent else "",
    ]
    return " ".join(parts)


@contextmanager
def primary(
    settings: Settings, user: str, password: str, until: float, silent: bool = False
) -> Iterator[tuple[str, Session]]:
    """The address that answered and a session with the writable primary; PostgresError says who answered what."""
    problems = []
    for address in addresses(settings):
        try:
            opened = Session(dsn(settings, address, user, password, silent), min(until, time.monotonic() + LOGIN))
        except PostgresError as error:
            problems.append(f"{address}: {error}")
            continue
        try:
            yield address, opened
        finally:
            opened.close()
        return
    raise Refused("; ".join(problems))


def search(settings: Settings, path: str, deadline: float) -> Any:
    """A JSON answer of the search, never through a proxy; OSError or ValueError if nobody gives one."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    problems = []
    for address in addresses(settings):
        try:
            with opener.open(f"http://{address}:{settings.search.port}{path}", timeout=deadline) as answer:
                return json.load(answer)
        except OSError as error:
            problems.append(f"{address}: {getattr(error, 'reason', '') or error}")
    raise ConnectionError("; ".join(problems))
