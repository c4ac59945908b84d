"""What the tests of etcd share: certificates, patience, a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.functional.etcd_server import EtcdServer, EtcdServers

from chefha_core.parts.etcd import TlsFiles
from chefha_core.secrets import generate

#: seconds by which a call may end after its deadline, on a machine that does something else as well: less than the
#: shortest deadline that is tested, so that a second one in a row is noticed
LATE = 0.3


def tls_files(folder: Path) -> TlsFiles:
    """A fresh authority and certificate as files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = generate({"n1": "127.0.0.1", "n2": "127.0.0.2", "n3": "127.0.0.3"}, "127.0.0.9")["tls"]
    for name, text in made.items():
        (folder / f"{name}.pem").write_text(text)
    return TlsFiles(*(str(folder / f"{name}.pem") for name in ("ca", "certificate", "key")))


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.005)


@contextmanager
def timed(what: str, *, within: float | None = None) -> Iterator[None]:
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    print(f"\n  measured: {what}: {took * 1000:.1f} ms", end="")
    if within is not None:
        assert took <= within, f"{what} took {took:.3f} s instead of {within:.3f} s"


def member_at(servers: EtcdServers, endpoint: str) -> EtcdServer:
    return next(m for m in servers.members if m.client_url == endpoint)
