"""A store that several nodes and clusters share: whose archives and attempts are removed, and by whom."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit import backup_builder as made

from chefha_core.backup.compression import expanded
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.retention import retire
from chefha_core.backup.stores import Directory, Owner
from chefha_core.settings import S3, Backup, Settings
from chefha_core.verbs.backup import backup
from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.restore import restore

BEGUN = "chef-backup-2026-01-01-00-00-00.tar.zst"
MEMBERS = {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"}


def name(second: int) -> str:
    return f"chef-backup-2026-01-01-00-00-{second:02}.tar.zst"


def store(folder: Path, archives: Mapping[str, Mapping[str, str]]) -> Directory:
    """A folder with these archives, which say this of themselves."""
    for file, about in archives.items():
        stream = made.plain(about=dataclasses.replace(made.ABOUT, **about))  # type: ignore[arg-type]
        (folder / file).write_bytes(made.compressed(stream))
    return Directory(folder)


def settings(**backup_settings: Any) -> Settings:
    return Settings(MEMBERS, "192.0.2.10", backup=Backup(**backup_settings))


def test_an_attempt_is_removed_by_its_own_node_or_once_that_is_no_member() -> None:
    be1 = Owner("lab", "be1", ("be2", "be3"))
    assert be1.left_over(be1.partial(BEGUN))
    assert be1.left_over(Owner("lab", "be9").partial(BEGUN))
    assert not be1.left_over(Owner("lab", "be2").partial(BEGUN))


def test_an_attempt_of_another_cluster_stays_whatever_the_two_are_called() -> None:
    for cluster, node in (("eu.lab", "be1"), ("lab.eu", "be1"), ("eu", "lab.be1"), ("eu", "be1.lab")):
        assert not Owner("lab", "be1").left_over(Owner(cluster, node).partial(BEGUN)), (cluster, node)
    assert not Owner("lab", "be1").left_over(BEGUN)


def test_an_archive_that_was_begun_before_another_is_not_retired_by_its_own_end(tmp_path: Path) -> None:
    own = {"cluster": "lab"}
    place = store(tmp_path, {name(1): own, name(2): own, name(3): own})
    assert retire(place, "lab", 1, made=name(2)) == ""
    assert [stored.name for stored in place.archives()] == [name(2), name(3)]


def test_what_a_kept_archive_builds_upon_is_kept(tmp_path: Path) -> None:
    own = {"cluster": "lab"}
    place = store(tmp_path, {name(1): own, name(2): {**own, "incremental_of": name(1)}, name(3): own})
    assert retire(place, "lab", 1, made=name(2)) == ""
    assert [stored.name for stored in place.archives()] == [name(1), name(2), name(3)]


def test_a_store_that_fails_while_it_is_read_is_told_in_a_sentence() -> None:
    class Broken:
        def read(self, size: int = -1) -> bytes:
            raise TimeoutError("read timed out")

    with pytest.raises(ArchiveError, match="it cannot be read: read timed out"), expanded(Broken(), print):  # type: ignore[arg-type]
        pass


def test_an_archive_that_keeps_the_newest_from_being_found_is_named(tmp_path: Path) -> None:
    (tmp_path / name(1)).write_bytes(b"no archive at all")
    with pytest.raises(VerbError, match=f"{name(1)}: it is not an archive.*; move it away if it is of no use"):
        backup(settings(directory=str(tmp_path)), "be2", incremental="newest")


def test_a_bucket_without_its_library_is_told_before_anything_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(VerbError, match=f"restore {BEGUN}: .*salt-pip install boto3; nothing was changed"):
        restore(settings(s3=S3(bucket="b")), "be1", BEGUN)
