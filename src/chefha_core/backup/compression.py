"""Compressed streams through the programs zstd and gzip: no package for Salt's Python, and a second processor's work.

Neither holds more than a few MiB, whatever goes through.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, BinaryIO

from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.tar_stream import CHUNK

#: compression -> end of file names
ENDINGS = {"zstd": ".tar.zst", "gzip": ".tgz"}
#: level 1 does 420 MB/s of a processor where level 3 does 190, and rows of a database become no larger by it
_COMPRESS = {"zstd": ["zstd", "-q", "-c", "-1", "-T2"], "gzip": ["gzip", "-c", "-n", "-6"]}
_EXPAND = {"zstd": ["zstd", "-q", "-d", "-c"], "gzip": ["gzip", "-d", "-c"]}
#: zstd compares its checksum of the whole content (XXH64), gzip its own (CRC-32)
_TEST = {"zstd": ["zstd", "-q", "-t"], "gzip": ["gzip", "-t"]}
_MAGIC = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}


def compressor(compression: str, output: int) -> subprocess.Popen[bytes]:
    """A running program that compresses its stdin to ``output`` (a file descriptor, or PIPE)."""
    return _started(_COMPRESS[compression], output)


def _started(argv: list[str], output: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, start_new_session=True
        )
    except FileNotFoundError:
        raise ArchiveError(f"the program {argv[0]} is missing; apt-get install {argv[0]}") from None


def ended(process: subprocess.Popen[bytes]) -> str:
    """Why a program that got all its input failed, "" if it did not. Waits for it."""
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read().decode("utf-8", "replace").strip()
    return "" if process.wait() == 0 else said or f"exit code {process.returncode}"


class Expanded:
    """What is within a compressed stream, as a file that can only be read, once, from begin to end.

    ``programs``: by compression, what the stream goes through.
    """

    def __init__(
        self, stream: BinaryIO, on_progress: Callable[[int], None], programs: Mapping[str, list[str]] = _EXPAND
    ) -> None:
        try:
            start = stream.read(4)
        except Exception as error:  # of whichever store it comes from
            raise ArchiveError(f"it cannot be read: {error}") from None
        kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")
        if not kind:
            raise ArchiveError("it is empty" if not start else "it is not an archive of chefha: neither zstd nor gzip")
        self._process = _started(programs[kind])
        self._broken = ""
        assert self._process.stdin is not None and self._process.stdout is not None
        self.file: IO[bytes] = self._process.stdout
        for pipe in (self._process.stdin, self._process.stdout):
            widen(pipe)
        self._feeder = threading.Thread(target=self._feed, args=(stream, start, on_progress), daemon=True)
        self._feeder.start()

    def _feed(self, stream: BinaryIO, start: bytes, on_progress: Callable[[int], None]) -> None:
        assert self._process.stdin is not None
        done, chunk = 0, start
        try:
            with self._process.stdin as target:
                while chunk:
                    target.write(chunk)
                    done += len(chunk)
                    on_progress(done)
                    chunk = stream.read(CHUNK)
        except BrokenPipeError:
            pass  # the program has ended: it says why, or nobody wants the rest
        except Exception as error:
            self._broken = f"it cannot be read: {error}"

    def problem(self) -> str:
        """Why the stream could not be read to its end, "" if it could. Reads what is left."""
        while self.file.read(CHUNK):
            pass
        self._feeder.join()
        said = ended(self._process)
        if self._broken or not said:
            return self._broken
        short = any(word in said for word in ("premature", "unexpected end", "incomplete"))
        return "it is truncated" if short else f"it is damaged: {said.splitlines()[0]}"

    def close(self) -> None:
        """End it, wherever it is."""
        with contextlib.suppress(OSError):
            self._process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._feeder.join()


@contextlib.contextmanager
def expanded(
    stream: BinaryIO, on_progress: Callable[[int], None], programs: Mapping[str, list[str]] = _EXPAND
) -> Iterator[Expanded]:
    """``on_progress`` gets the compressed bytes read so far."""
    made = Expanded(stream, on_progress, programs)
    try:
        yield made
    finally:
        made.close()


def damage(stream: BinaryIO, on_progress: Callable[[int], None]) -> str:
    """Why a stream does not expand to what was compressed, "" if it does: the program's own checksum of all of it."""
    with expanded(stream, on_progress, _TEST) as tested:
        return tested.problem()


def widen(pipe: IO[bytes]) -> None:
    """Let a pipe hold 1 MiB instead of 64 KiB: fewer changes between processes; without it, it is only slower."""
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, min(CHUNK, _most()))


def _most() -> int:
    with contextlib.suppress(OSError, ValueError), open("/proc/sys/fs/pipe-max-size") as file:  # noqa: PTH123
        return int(file.read())
    return os.sysconf("SC_PAGESIZE") * 16
