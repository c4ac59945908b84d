"""An archive is read to its end and everything in it is checked; whatever is wrong is one sentence."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit import backup_builder as made

from chefha_core.backup.archive import ABOUT, MANIFEST, extract, verify
from chefha_core.backup.errors import ArchiveError


def refused(content: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        verify(io.BytesIO(content))
    return str(caught.value)


@pytest.mark.parametrize("program", ["zstd", "gzip"])
def test_a_good_archive_is_read_and_told_about(program: str, tmp_path: Path) -> None:
    content, seen = made.archive(program=program), []
    assert verify(io.BytesIO(content), seen.append) == made.ABOUT
    assert seen[-1] == len(content)
    assert extract(io.BytesIO(content), tmp_path) == made.ABOUT
    for path, data in {**made.FILES, **made.LOG}.items():
        assert (tmp_path / path).read_bytes() == data
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "base").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "chefha").exists()


def test_its_manifest_can_be_had_aside(tmp_path: Path) -> None:
    verify(io.BytesIO(made.archive()), aside=tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["backup_manifest"]


@pytest.mark.parametrize("program", ["zstd", "gzip"])
def test_truncated_anywhere_it_is_refused(program: str) -> None:
    content = made.archive(program=program)
    for at in [*range(0, len(content), 37), len(content) - 1]:
        said = refused(content[:at])
        assert "truncated" in said or "empty" in said or "neither zstd nor gzip" in said, (at, said)


def test_the_stream_within_truncated_at_any_block_is_refused() -> None:
    stream = made.plain()
    for at in range(0, stream.rindex(MANIFEST.encode()) + 512, 512 * 61):
        assert "truncated" in refused(made.compressed(stream[:at])) or at < 512


@pytest.mark.parametrize("program", ["zstd", "gzip"])
def test_a_flipped_bit_anywhere_is_refused(program: str) -> None:
    content, dice = made.archive(program=program), random.Random(5)
    whole = subprocess.run([program, "-q", "-d", "-c"], input=content, capture_output=True, check=True).stdout
    for _ in range(60):
        flipped = bytearray(content)
        flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        try:
            verify(io.BytesIO(flipped))
        except ArchiveError:
            continue
        again = subprocess.run([program, "-q", "-d", "-c"], input=flipped, capture_output=True, check=True).stdout
        assert again == whole  # a bit that means nothing, such as the time in gzip's header


def test_a_flipped_bit_within_the_stream_is_refused_though_the_compression_is_whole() -> None:
    """Data of every kind of entry: configuration, files of the database, its log, both manifests."""
    stream = made.plain()
    for needle in (b"{}", b"reindex", b"some rows some", b'"Path": "PG_VERSION"', b'"sha256": "', b"17\n"):
        at = stream.index(needle) + len(needle) - 1
        flipped = bytearray(stream)
        flipped[at] ^= 1
        refused(made.compressed(bytes(flipped)))
    at = stream.index(bytes(1 << 20)) + 5000  # in the log, which backup_manifest does not have
    flipped = bytearray(stream)
    flipped[at] ^= 1
    assert f"pg_wal/{made.SEGMENT} does not have its checksum" in refused(made.compressed(bytes(flipped)))


def entries(change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> bytes:
    """A good archive whose entries were changed."""
    with tarfile.open(fileobj=io.BytesIO(made.plain())) as tar:
        all_of_it = [(e, tar.extractfile(e).read() if e.isreg() else b"") for e in tar]  # type: ignore[union-attr]
    change(all_of_it)
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as out:
        for info, data in all_of_it:
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return made.compressed(sink.getvalue())


def drop(name: str) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(rows: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        rows[:] = [row for row in rows if row[0].name != name]

    return change


def put(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, at: int = -1) -> Callable[..., None]:
    def change(rows: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
        rows.insert(at, (info, data)) if at != 999 else rows.append((info, data))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("postgresql/base/1/1259"), "base/1/1259 is missing, which backup_manifest has"),
        (drop(f"postgresql/pg_wal/{made.SEGMENT}"), "is missing, which chefha/manifest.json has"),
        (drop("postgresql/backup_manifest"), "no backup_manifest"),
        (drop("search/README"), "search/README is missing"),
        (drop(MANIFEST), "truncated"),
        (drop(ABOUT), "begins with configuration/settings.json"),
        (put("postgresql/base/1/new"), "base/1/new is not in backup_manifest"),
        (put("postgresql/pg_wal/new"), "pg_wal/new is not in chefha/manifest.json"),
        (put("postgresql/PG_VERSION"), "twice"),
        (put("postgresql/../../etc/passwd"), "no archive of chefha has"),
        (put("/etc/passwd"), "no archive of chefha has"),
        (put("other/file"), "no archive of chefha has"),
        (put("postgresql/pg_tblspc/1", b"", tarfile.SYMTYPE), "neither a file nor a folder"),
        (put("search/late"), "not in its place"),
        (put("postgresql/late", at=999), "after its end"),
    ],
)
def test_an_archive_that_was_tampered_with_is_refused(change: Callable[..., None], words: str, tmp_path: Path) -> None:
    content = entries(change)
    assert words in refused(content)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ArchiveError):
        extract(io.BytesIO(content), folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder"]


def test_what_is_no_archive_is_told_so(tmp_path: Path) -> None:
    assert "neither zstd nor gzip" in refused(b"hello, this is a text")
    assert "empty" in refused(b"")
    assert "no tar within" in refused(made.compressed(b"hello " * 1000))
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("base.sql"))
    assert "it begins with base.sql" in refused(made.compressed(sink.getvalue()))
    assert "format 2" in refused(made.compressed(made.plain().replace(b'"format": 1', b'"format": 2')))
    assert refused(made.archive() + b"more")
    assert "after its end" in refused(made.compressed(made.plain() + b"more" + bytes(508)))


def test_a_stream_that_breaks_is_told_with_its_reason() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise OSError("connection reset by peer")
            return super().read(size)

    with pytest.raises(ArchiveError, match="connection reset by peer"):
        verify(Broken(made.archive()))


def test_nothing_is_extracted_into_a_folder_that_has_something(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("")
    with pytest.raises(ArchiveError, match="not empty"):
        extract(io.BytesIO(made.archive()), tmp_path)


def test_a_segment_of_the_needed_log_must_be_there() -> None:
    content = dict(made.LOG)
    made.LOG.clear()
    made.LOG[f"pg_wal/{made.SEGMENT[:-1]}9"] = next(iter(content.values()))
    try:
        with pytest.raises(ArchiveError, match=f"lacks the segment {made.SEGMENT}"):
            made.archive()
    finally:
        made.LOG.clear()
        made.LOG.update(content)
