"""A program of lab/inside at work in a machine, and waited for here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .nodes import Machines
from .progress import LabError, tail
from .topology import Node

INSIDE = Path(__file__).parent / "inside"
# Not below /run: the engine cannot put files into a tmpfs of a machine.
FOLDER = "/var/lib/lab-probe"
READY_TIMEOUT = 60.0
SETTLE = 60.0


class Program(threading.Thread):
    """One run of a program: `job` is its argument, and tells how long it may take (`seconds`)."""

    def __init__(self, machines: Machines, node: Node, file: str, job: Mapping[str, Any], password: str = "") -> None:
        super().__init__(daemon=True)
        self._machines, self._node, self._file = machines, node, file
        self._command = ["python3", "-m", f"{INSIDE.name}.{file}", json.dumps(job)]
        self._env = {"PGPASSWORD": password, "PYTHONPATH": FOLDER, "PYTHONDONTWRITEBYTECODE": "1"}
        self._limit = float(job.get("seconds", 0)) + 3 * SETTLE
        self._answer: dict[str, Any] | None = None
        self._failure = "did not end"

    def run(self) -> None:
        try:
            ran = self._machines.run(self._node, self._command, self._limit, self._env)
            if ran.rc:
                self._failure = f"ended with {ran.rc}\n{tail(ran.text)}"
            else:
                self._answer = json.loads(ran.out)
        except (LabError, ValueError) as error:
            self._failure = str(error)

    def outcome(self) -> dict[str, Any]:
        """Wait for the end; the program's answer, or LabError."""
        self.join(self._limit + 30)
        if self._answer is None:
            raise LabError(f"{self._file} on {self._node.name}: {self._failure}")
        return self._answer

    def await_ready(self, file: str, what: str) -> None:
        """Wait for the file that says it is at work; LabError (`what` did not happen) if it ends or takes too long."""
        deadline = time.monotonic() + READY_TIMEOUT
        while self._machines.run(self._node, ["test", "-e", file], 10).rc:
            if not self.is_alive() and self._answer is None:
                self.outcome()
            if time.monotonic() > deadline:
                raise LabError(f"{self._node.name}: {what} within {READY_TIMEOUT:.0f} s")
            time.sleep(0.05)


def put_programs(machines: Machines, node: Node) -> None:
    """Copy lab/inside into a machine."""
    machines.check(node, ["mkdir", "-p", f"{FOLDER}/{INSIDE.name}"])
    machines.write(node, {f"{FOLDER}/{INSIDE.name}/{path.name}": path.read_bytes() for path in INSIDE.glob("*.py")})
