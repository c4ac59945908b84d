"""A tar stream read from a pipe: headers by Python's tarfile, contents without a copy beyond the kernel's."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO

#: bytes moved at once
CHUNK = 1 << 20


class TarStream:
    """The entries of a tar stream, one after the other; what is left of one is skipped when the next is asked for.

    tarfile's own reader of streams copies every byte three times, which costs more than its checksum. Here tarfile
    sees a file that it can only read, and skip forward in. Both raise tarfile.TarError.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._at = pipe, 0
        self._buffer = memoryview(bytearray(CHUNK))
        self._tar = tarfile.open(fileobj=self, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115

    def next(self) -> tarfile.TarInfo | None:
        """The next entry, None at the end, or where no header can be recognised any more."""
        entry: tarfile.TarInfo | None = self._tar.next()
        self._tar.members.clear()  # or it would remember them all
        return entry

    def content(self, entry: tarfile.TarInfo) -> Iterator[memoryview]:
        """The content of the present entry, in pieces that are only good until the next one."""
        left = entry.size
        while left:
            count = self._pipe.readinto(self._buffer[: min(CHUNK, left)])  # type: ignore[attr-defined]
            if not count:
                raise tarfile.ReadError("unexpected end of data")
            self._at += count
            left -= count
            yield self._buffer[:count]

    def text(self, entry: tarfile.TarInfo) -> bytes:
        """The whole content of the present entry."""
        return b"".join(bytes(piece) for piece in self.content(entry))

    # ---- the file that tarfile sees

    def tell(self) -> int:
        """Bytes read so far."""
        return self._at

    def seek(self, to: int) -> None:
        """Skip forward."""
        if to < self._at:
            raise tarfile.StreamError("a stream cannot be read twice")
        while to > self._at and self.read(min(CHUNK, to - self._at)):
            pass

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        found = bytearray()
        while len(found) < size and (piece := self._pipe.read(size - len(found))):
            found += piece
        self._at += len(found)
        return bytes(found)
