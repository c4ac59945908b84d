"""Archives in a bucket of an S3-compatible store, through boto3.

A bucket has no rename: an archive is uploaded as ``NAME.NODE@CLUSTER.partial``, read back, copied by the store itself
to its name.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.stores import NAME, Owner, Stored
from chefha_core.settings import S3

#: bytes of one part of an upload, two of which are in memory at once
PART = 8 << 20
#: parts that an object can have (Amazon S3, "multipart upload limits"), a few left for a size that was guessed
PARTS = 9000


class S3Store:
    """One prefix within one bucket, which must be there."""

    def __init__(self, wanted: S3) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise ArchiveError(
                "pillar chefha:backup:s3 is set, and boto3 is not in this Python; salt-pip install boto3"
            ) from None
        self._errors = (BotoCoreError, ClientError, OSError)
        self._wanted = wanted
        keys: dict[str, Any] = {}
        if wanted.access_key:
            keys = {"aws_access_key_id": wanted.access_key, "aws_secret_access_key": wanted.secret_key}
        self.client = boto3.client(
            "s3",
            endpoint_url=wanted.endpoint or None,
            region_name=wanted.region,
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"max_attempts": 4, "mode": "standard"},
                # many stores that are not Amazon's know neither its newer checksums nor buckets as host names
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path" if wanted.endpoint else "auto"},
            ),
            **keys,
        )

    def where(self, name: str = "") -> str:
        return f"s3://{self._wanted.bucket}/{self._key(name)}"

    def _key(self, name: str) -> str:
        return f"{self._wanted.prefix.strip('/')}/{name}".lstrip("/")

    def archives(self) -> list[Stored]:
        return sorted((s for s in self._all() if NAME.fullmatch(s.name)), key=lambda s: s.name)

    def _all(self, begin: str = "chef-backup-") -> Iterator[Stored]:
        start = self._key("")
        with self._explained("cannot be listed"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self._wanted.bucket, Prefix=self._key(begin)
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield Stored(entry["Key"].removeprefix(start), entry["Size"])

    def below(self, folder: str) -> list[str]:
        return sorted(stored.name for stored in self._all(f"{folder}/"))

    def has(self, name: str) -> bool:
        with self._explained("cannot be read"):
            found = self.client.list_objects_v2(Bucket=self._wanted.bucket, Prefix=self._key(name), MaxKeys=1)
            return any(entry["Key"] == self._key(name) for entry in found.get("Contents", []))

    def size(self, name: str) -> int:
        with self._explained("cannot be read"):
            found = self.client.head_object(Bucket=self._wanted.bucket, Key=self._key(name))
            return int(found["ContentLength"])

    def room(self) -> int | None:
        with self._explained("cannot be used"):
            self.client.head_bucket(Bucket=self._wanted.bucket)
        return None

    def clear(self, owner: Owner) -> None:
        for stored in list(self._all()):
            if owner.left_over(stored.name):
                self.remove(stored.name)
        with self._explained("cannot be listed"):
            found = self.client.list_multipart_uploads(Bucket=self._wanted.bucket, Prefix=self._key("chef-backup-"))
            for upload in found.get("Uploads", []):
                if owner.left_over(upload["Key"].removeprefix(self._key(""))):
                    self.client.abort_multipart_upload(
                        Bucket=self._wanted.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    @contextlib.contextmanager
    def receive(self, name: str, size: int) -> Iterator[int]:
        from boto3.s3.transfer import TransferConfig

        reading, writing = os.pipe()
        fate, problems = _Fate(), []
        part = max(PART, size // PARTS)
        config = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=2)

        def upload() -> None:
            try:
                with os.fdopen(reading, "rb") as file:
                    source = _Whole(file, fate)
                    self.client.upload_fileobj(source, self._wanted.bucket, self._key(name), Config=config)
            except Exception as error:
                problems.append(error)

        thread = threading.Thread(target=upload, daemon=True)
        thread.start()
        try:
            yield writing
            fate.whole = True
        finally:
            fate.decided.set()
            os.close(writing)
            thread.join()
            if not fate.whole:
                with contextlib.suppress(ArchiveError):
                    self.remove(name)
        if problems:
            raise ArchiveError(f"{self.where(name)} cannot be written: {problems[0]}")

    @contextlib.contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        with self._explained("cannot be read"):
            body = self.client.get_object(Bucket=self._wanted.bucket, Key=self._key(name))["Body"]
        with contextlib.closing(body):
            yield body

    def rename(self, name: str, new: str) -> None:
        if self.has(new):
            raise ArchiveError(f"{self.where(new)} is there already")
        with self._explained("cannot be changed"):
            source = {"Bucket": self._wanted.bucket, "Key": self._key(name)}
            self.client.copy(source, self._wanted.bucket, self._key(new))
            self.client.delete_object(**source)

    def remove(self, name: str) -> None:
        with self._explained("cannot be changed"):
            self.client.delete_object(Bucket=self._wanted.bucket, Key=self._key(name))

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise ArchiveError(f"{self.where()} {what}: {error}") from None


class _Fate:
    """Whether what went into a pipe was all of it, once that is known."""

    def __init__(self) -> None:
        self.decided, self.whole = threading.Event(), False


class _Whole:
    """A pipe that ends well only if its writer says so: what was cut short must not become an object."""

    def __init__(self, file: BinaryIO, fate: _Fate) -> None:
        self._file, self._fate = file, fate

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        if len(chunk) < size:
            self._fate.decided.wait()
            if not self._fate.whole:
                raise OSError("the backup was cut short")
        return chunk
