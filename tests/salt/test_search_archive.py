"""Search's archive from wherever it may come, by Salt's own states: unpacked once and whole, or refused."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import io
import os
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.state
from tests.salt.playground import REPOSITORY, pillar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what is unpacked belongs to root")

PROGRAM = "opensearch-1.3.20/bin/opensearch"
CONTENT = b"#!/bin/sh\n"


def tgz() -> bytes:
    """A maker's distribution, much smaller."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        member = tarfile.TarInfo(PROGRAM)
        member.size, member.mode = len(CONTENT), 0o755
        archive.addfile(member, io.BytesIO(CONTENT))
    return made.getvalue()


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        member = zipfile.ZipInfo(PROGRAM)
        member.external_attr = 0o755 << 16
        archive.writestr(member, CONTENT)
    return made.getvalue()


ARCHIVES = {"engine.tar.gz": tgz(), "engine.tgz": tgz(), "engine.zip": zipped()}
#: how an address begins; what is behind it depends on the minion
KINDS = ("http", "salt", "path")


class Handler(SimpleHTTPRequestHandler):
    """A maker's download page that says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@dataclasses.dataclass
class Minion:
    """be1 below a folder of its own, which takes archives from ``files`` by any kind of address."""

    root: Path
    http: str

    @property
    def files(self) -> Path:
        return self.root / "files"

    def address(self, kind: str, name: str) -> str:
        return {"http": f"{self.http}/{name}", "salt": f"salt://{name}", "path": f"{self.files}/{name}"}[kind]

    def apply(self, address: str, checksum: str, test: bool = False) -> dict[str, Any]:
        """What the state of search answers, of which there is only the part about the archive."""
        opts: dict[str, Any] = salt.config.minion_config(None)
        opts.update(
            id="be1", root_dir=str(self.root), cachedir=str(self.root / "cache"), conf_file=str(self.root / "minion"),
            test=test, module_dirs=[str(REPOSITORY)], extension_modules=str(self.root / "extmods"),
            file_client="local", file_roots={"base": [str(self.files)]}, grains=GRAINS,
        )  # fmt: skip
        engine = {"flavor": "opensearch", "version": "1.3.20", "source": {"archive": address, "checksum": checksum}}
        opts["pillar"] = {"chefha": {**pillar("http://127.0.0.1:1"), "search": engine}}
        low = {"state": "chefha", "fun": "search", "name": "x", "__id__": "x", "__sls__": "x", "__env__": "base"}
        answer: dict[str, Any] = salt.state.State(opts, initial_pillar=opts["pillar"]).call({**low, "order": 1})
        return answer

    def unpacked(self) -> dict[str, bytes]:
        """The files below the folder of search engines."""
        folder = self.root / "unpacked"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


GRAINS = {"os": "Debian", "os_family": "Debian", "kernel": "Linux", "id": "be1"}


@pytest.fixture
def minion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Minion]:
    # as the state will import them: another test may have had the library loaded anew
    search_engine, search, catalogue = (
        importlib.import_module(f"chefha_core.{part}")
        for part in ("search_engine", "layout.search", "layout.catalogue")
    )
    for module in (search_engine, search):
        monkeypatch.setattr(module, "UNPACKED", str(tmp_path / "unpacked"))
    monkeypatch.setitem(catalogue.LAYOUTS, "search", lambda settings, name: search._archive(settings.search))
    (tmp_path / "files").mkdir()
    for name, content in ARCHIVES.items():
        (tmp_path / "files" / name).write_bytes(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "files")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Minion(tmp_path, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def checksum_of(content: bytes) -> str:
    return f"sha256={hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_from_any_address_is_unpacked_once(minion: Minion, kind: str, name: str) -> None:
    address, checksum = minion.address(kind, name), checksum_of(ARCHIVES[name])
    announced = minion.apply(address, checksum, test=True)
    assert announced["result"] is None and not (minion.root / "unpacked").exists()
    done = minion.apply(address, checksum)
    assert done["result"] is True and set(done["changes"]) == set(announced["changes"]), done
    place = f"opensearch-1.3.20-{checksum[7:19]}"
    found = minion.unpacked()
    assert set(found) == {f"{place}/.complete", f"{place}/{PROGRAM}"} and found[f"{place}/{PROGRAM}"] == CONTENT
    assert os.access(minion.root / "unpacked" / place / PROGRAM, os.X_OK)
    assert not [path for path in (minion.root / "cache").rglob("engine*") if path.read_bytes() == ARCHIVES[name]]
    (minion.files / name).unlink()  # nobody asks for it any more
    for test in (True, False):
        again = minion.apply(address, checksum, test)
        assert (again["result"], again["changes"]) == (True, {}), again


@pytest.mark.parametrize("name", ["engine.tar.gz", "engine.zip"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_archive_than_the_checksums_is_refused_and_the_right_one_then_taken(
    minion: Minion, kind: str, name: str
) -> None:
    address, checksum = minion.address(kind, name), checksum_of(ARCHIVES[name])
    (minion.files / name).write_bytes(ARCHIVES[name] + b"and more")
    assert minion.apply(address, checksum, test=True)["result"] is (False if kind == "path" else None)
    assert not (minion.root / "unpacked").exists()
    refused = minion.apply(address, checksum)
    assert refused["result"] is False and "Traceback" not in refused["comment"] and "\n" not in refused["comment"]
    assert re.search(r"does not match the (specified hash|desired source_hash)", refused["comment"]), refused
    assert name in refused["comment"] and minion.unpacked() == {}
    assert minion.apply(address, checksum)["result"] is False, "what was fetched before is no better"
    (minion.files / name).write_bytes(ARCHIVES[name])
    assert minion.apply(address, checksum)["result"] is True
    assert len(minion.unpacked()) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_not_there_is_refused(minion: Minion, kind: str) -> None:
    refused = minion.apply(minion.address(kind, "nothing.tar.gz"), checksum_of(b""))
    assert refused["result"] is False and "Traceback" not in refused["comment"]
    assert "nothing.tar.gz" in refused["comment"] and minion.unpacked() == {}
