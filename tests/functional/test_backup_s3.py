"""Backups in a bucket: of a real PostgreSQL, to a real S3-compatible server."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.functional import pg_cluster
from tests.functional.pg_cluster import Node
from tests.functional.s3_gateway import gateway

from chefha_core.backup import take, wal
from chefha_core.backup.archive import verify
from chefha_core.backup.chain import chain
from chefha_core.backup.s3_store import S3Store
from chefha_core.backup.stores import Owner
from chefha_core.settings import S3, Backup
from chefha_core.verbs import backup
from chefha_core.verbs.reach import VerbError

pytestmark = pytest.mark.skipif(bool(pg_cluster.usable()), reason=pg_cluster.usable())


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with gateway(tmp_path_factory.mktemp("s3")) as found:
        yield found


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """One that leads; what a follower adds to it needs no bucket."""
    with pg_cluster.cluster() as made:
        leader = made.first()
        leader.sql("create table t as select n, md5(n::text) || md5((n + 1)::text) from generate_series(1, 300000) n")
        yield leader


def taken(node: Node, bucket: S3, **wish: object) -> dict[str, object]:
    settings = dataclasses.replace(node.settings, backup=Backup(directory="/nonexistent", s3=bucket))
    return backup.backup(settings, node.name, force=True, places=node.places, **wish)  # type: ignore[arg-type]


def objects(bucket: S3) -> list[str]:
    return sorted(stored.name for stored in S3Store(bucket)._all())


def test_a_backup_to_a_bucket_is_verified_and_has_its_name_only_then(
    node: Node, bucket: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chefha_core.backup.s3_store.PART", 5 << 20)  # the least that S3 allows: several parts
    done = taken(node, bucket)
    name = str(done["archive"]).rpartition("/")[2]
    assert done["archive"] == f"s3://backups/chef/test/{name}"
    assert objects(bucket) == [name]
    store = S3Store(bucket)
    assert store.size(name) == done["bytes"] > 10 << 20
    with store.read(name) as stream:
        assert verify(stream).node == node.name
    assert chain(store, name) == [name]
    store.remove(name)
    assert objects(bucket) == []


def test_what_was_cut_short_never_becomes_an_archive(node: Node, bucket: S3) -> None:
    with pytest.raises(VerbError, match="not done within"):
        taken(node, bucket, timeout=3.0, max_rate=1)
    assert objects(bucket) == []
    store = S3Store(bucket)
    begun = "chef-backup-2026-01-01-00-00-00.tgz"
    own, other, gone = (Owner("c", node).partial(begun) for node in ("be1", "be2", "be9"))
    for name in (own, other, gone):
        names = {"Bucket": bucket.bucket, "Key": f"chef/test/{name}"}
        store.client.put_object(**names, Body=b"half")  # what a killed one may leave: an object not yet verified,
        store.client.create_multipart_upload(**names)  # and parts of one
    store.clear(Owner("c", "be1", ("be2", "be3")))
    assert objects(bucket) == [other], "another member may be at work on its own"
    (upload,) = store.client.list_multipart_uploads(Bucket=bucket.bucket)["Uploads"]
    assert upload["Key"].endswith(other)
    store.clear(Owner("c", "be2", ("be1", "be3")))
    assert objects(bucket) == []
    assert not store.client.list_multipart_uploads(Bucket=bucket.bucket).get("Uploads")


def test_an_archive_that_rots_in_the_bucket_does_not_verify(
    node: Node, bucket: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = take._Taking._read_back

    def rotten(self, partial) -> None:  # type: ignore[no-untyped-def]
        key = {"Bucket": bucket.bucket, "Key": f"chef/test/{partial}"}
        client = self.store.client
        content = bytearray(client.get_object(**key)["Body"].read())
        content[len(content) // 2] ^= 8
        client.put_object(**key, Body=bytes(content))
        real(self, partial)

    monkeypatch.setattr(take._Taking, "_read_back", rotten)
    with pytest.raises(VerbError, match="does not verify"):
        taken(node, bucket)
    assert objects(bucket) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bucket": "none-such"}, "cannot be used"),
        ({"secret_key": "wrong"}, "cannot be used"),
        ({"endpoint": "http://127.0.0.1:9"}, "Could not connect"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_told_in_a_sentence(
    node: Node, bucket: S3, change: dict[str, str], words: str
) -> None:
    with pytest.raises(VerbError, match=words) as caught:
        taken(node, dataclasses.replace(bucket, **change))
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_the_log_goes_to_the_bucket_and_comes_back(bucket: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "global").mkdir()
    (tmp_path / "global/pg_control").write_bytes((7).to_bytes(8, sys.byteorder))
    monkeypatch.chdir(tmp_path)
    store, segment = S3Store(bucket), tmp_path / "000000010000000000000001"
    segment.write_bytes(os.urandom(1 << 20) + bytes(15 << 20))
    name = wal.push(store, segment)
    assert wal.push(store, segment) == name and store.has(name)
    assert wal.fetch(store, segment.name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == segment.read_bytes()
    assert not wal.fetch(store, "000000010000000000000002", tmp_path / "none")
    assert store.below("wal") == [name] and wal.retire(store, "7", 1 << 30) == 1 and store.below("wal") == []
