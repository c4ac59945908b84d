"""Real members of etcd for whichever test asks for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.functional.etcd_server import EtcdServers
from tests.functional.etcd_tools import tls_files

from chefha_core.parts.etcd import EtcdClient

_numbers = itertools.count()


@pytest.fixture(scope="module", params=["plain", "tls"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    folder = tmp_path_factory.mktemp(request.param)
    tls = tls_files(folder / "tls") if request.param == "tls" else None
    with EtcdServers(folder, tls=tls) as servers:
        yield servers


@pytest.fixture
def servers(running: EtcdServers) -> Iterator[EtcdServers]:
    """All three members, repaired after each test."""
    yield running
    running.repair()


@pytest.fixture
def client(servers: EtcdServers) -> Iterator[EtcdClient]:
    made = servers.client(prefix=f"/chefha/t{next(_numbers)}")
    yield made
    made.close()
