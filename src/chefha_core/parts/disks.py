"""Asks the program ``disk_probe`` how PostgreSQL's file systems are, and never waits for it longer than the deadline.

A process that hangs in a write cannot be killed, and is not: it is asked nothing more until it has answered. One that
ended is replaced.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from chefha_core.parts import disk_probe


class ProbeBroken(Exception):
    """The program could not be asked, which says nothing about the disks; one sentence."""


@dataclass(frozen=True)
class Disk:
    """One file system: how much room there is (bytes, -1: unknown), and how long the write took (seconds)."""

    folder: str
    free: int = -1
    seconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Look:
    """What one question found out. ``hangs``: the folder whose write has not come back in time, "" if none."""

    disks: tuple[Disk, ...] = ()
    hangs: str = ""


class DiskProbe:
    """The program for the data directory ``data``; it runs from the first question on. Used by one thread."""

    def __init__(self, data: str, command: Sequence[str] = ()) -> None:
        self.data = data
        self.command = tuple(command) or (sys.executable, "-I", disk_probe.__file__, data)
        self._process: subprocess.Popen[bytes] | None = None
        self._read = b""
        self._asked = False
        self._at = data

    @property
    def pid(self) -> int:
        """Of the program, 0 if it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def ask(self, deadline: float) -> Look:
        """Write now, or go on waiting for the write that hangs; at most ``deadline`` seconds. ProbeBroken without an
        answer for another reason.
        """
        until = time.monotonic() + deadline
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        if not self._asked:
            try:
                os.write(process.stdin.fileno(), b"\n")
            except OSError as error:
                raise ProbeBroken(f"the probe of the disks cannot be asked: {error}") from None
            self._asked = True
        while (left := until - time.monotonic()) > 0:
            if not select.select([process.stdout], [], [], left)[0]:
                continue
            found = os.read(process.stdout.fileno(), 65536)
            if not found:
                raise ProbeBroken(f"the probe of the disks has ended with {process.poll()}; it is started again")
            if (answer := self._heard(found)) is not None:
                return answer
        return Look(hangs=self._at)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        self._read, self._asked, self._at = b"", False, self.data
        try:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd="/"
            )
        except OSError as error:
            raise ProbeBroken(f"the probe of the disks does not start: {error}") from None
        return self._process

    def _heard(self, text: bytes) -> Look | None:
        *lines, self._read = (self._read + text).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self._at = said.get("at", self._at)
            if "disks" in said:
                self._asked = False
                return Look(tuple(Disk(**disk) for disk in said["disks"]))
        return None

    def close(self) -> None:
        """Nobody asks any more: the program ends by itself, as soon as it can."""
        for pipe in (self._process.stdin, self._process.stdout) if self._process else ():
            if pipe is not None:
                pipe.close()
        self._process = None
