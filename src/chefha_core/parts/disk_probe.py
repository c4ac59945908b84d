"""A program of its own that writes a small file on PostgreSQL's file systems: ``disk_probe.py DATA_DIR``.

For each line on its standard input it writes lines of JSON: ``{"at": FOLDER}`` before it touches a file system, and at
last ``{"disks": [{"folder", "free" (bytes, -1: unknown), "seconds", "problem"}, …]}``. A write that never comes back
hangs this process and nobody else; whoever asks has a deadline of its own. It ends with its standard input.

Run by its path, not as a module, so that it needs nothing but Python's own library.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FILE = ".chefha-probe"
SIZE = 4096


def folders(data: Path) -> list[Path]:
    """A folder on each file system that PostgreSQL cannot do without: its data directory's, and its log's if that is
    another. Beside the directory where that is the same file system: nothing of ours belongs into it.
    """
    if not data.is_dir():
        return [next(folder for folder in data.parents if folder.is_dir())]
    log = (data / "pg_wal").resolve()
    found = [data]
    if log.is_dir() and log.stat().st_dev != data.stat().st_dev:
        found.append(log)
    return [_beside(folder) for folder in found]


def _beside(folder: Path) -> Path:
    return folder.parent if folder.parent.stat().st_dev == folder.stat().st_dev else folder


def probe(folder: Path) -> dict[str, Any]:
    """Write, fsync and remove a file in ``folder``, and see how much room there is."""
    began, problem, free = time.monotonic(), "", -1
    try:
        _write(folder / FILE)
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize
    except OSError as error:
        problem = error.strerror or str(error)
    return {"folder": str(folder), "free": free, "seconds": round(time.monotonic() - began, 3), "problem": problem}


def _write(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"\0" * SIZE)
        os.fsync(fd)
    finally:
        os.close(fd)
    path.unlink()


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Answer until nobody asks any more."""
    data = Path(sys.argv[1])
    for _ in sys.stdin:
        _say({"at": str(data)})
        disks = []
        for folder in folders(data):
            _say({"at": str(folder)})
            disks.append(probe(folder))
        _say({"disks": disks})


if __name__ == "__main__":
    main()
