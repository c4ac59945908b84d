"""``salt-call`` on this machine: states applied by a process of their own, as its minion is configured, with a master
or without, and with whatever library is then installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: seconds between two looks at a call that goes on
PAUSE = 0.5
#: seconds that a highstate may take: packages come over the network
HIGHSTATE = 1800.0
LONGEST = 600


class SaltFailed(Exception):
    """salt-call did not do what was asked; one sentence."""


@dataclass(frozen=True)
class Applied:
    """What applying states came to: how many there are, and the comments of those that changed something or failed."""

    states: int
    changed: dict[str, str]
    failed: dict[str, str]


def salt_call(
    function: str, *arguments: str, timeout: float = 120.0, meanwhile: Callable[[], None] = lambda: None
) -> Any:
    """What ``salt-call FUNCTION ARGUMENTS`` returns, within ``timeout`` seconds; SaltFailed. ``meanwhile`` is called
    twice a second.
    """
    asked = " ".join(["salt-call", function, *arguments])
    command = [_program(), "--out=json", "--retcode-passthrough", function, *arguments]
    try:
        call = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise SaltFailed(f"{asked} could not be started: {error}; is there a salt-minion on this node?") from None
    end = time.monotonic() + timeout
    with call:
        try:
            while True:
                try:
                    out, err = call.communicate(timeout=PAUSE)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > end:
                        raise SaltFailed(f"{asked} was not done within {timeout:g} s and was ended") from None
                    meanwhile()
        finally:
            if call.poll() is None:
                call.terminate()
    return answer(asked, out, call.returncode, err)


def apply(*arguments: str, timeout: float = HIGHSTATE, meanwhile: Callable[[], None] = lambda: None) -> Applied:
    """``state.apply ARGUMENTS`` of this node; SaltFailed with the reasons if one failed."""
    return well(applied(salt_call("state.apply", *arguments, timeout=timeout, meanwhile=meanwhile)))


def applied(states: Any) -> Applied:
    """What ``state.apply`` returned, in short; SaltFailed if it is no answer of states. Pure."""
    if not isinstance(states, Mapping) or not states:
        raise SaltFailed(f"no state was applied: {_line(states or 'nothing was said')}")
    rows = [(str(row.get("__id__", key)), row) for key, row in states.items() if isinstance(row, Mapping)]
    rows.sort(key=lambda named: int(named[1].get("__run_num__", 0)))
    failed = {name: _line(row.get("comment", "")) for name, row in rows if row.get("result") is False}
    changed = {name: _line(row.get("comment", "")) for name, row in rows if row.get("changes") and name not in failed}
    return Applied(len(rows), changed, failed)


def well(done: Applied) -> Applied:
    """The same, or SaltFailed if a state failed: with reasons; the states that only waited for those are counted."""
    if not done.failed:
        return done
    reasons = {name: why for name, why in done.failed.items() if "requisite failed" not in why} or done.failed
    told = "; ".join(f"{name}: {why}" for name, why in reasons.items())
    waiting = len(done.failed) - len(reasons)
    also = f"; {waiting} more were not reached" if waiting else ""
    raise SaltFailed(f"{len(reasons)} of {done.states} states failed: {told}{also}")


def answer(asked: str, out: str, code: int, err: str) -> Any:
    """The data in what salt-call printed; SaltFailed with its words if they are an error, or none. Pure."""
    try:
        said = json.loads(out[out.index("{") :])["local"]
    except (ValueError, KeyError):
        words = (err.strip() or out.strip() or "nothing").splitlines()[-1]
        raise SaltFailed(f"{asked} ended with {code} and said: {words}") from None
    if code and not isinstance(said, Mapping):
        raise SaltFailed(f"{asked} failed: {_line(said)}")
    return said


def _line(said: Any) -> str:
    """A text, or a list of texts, as one line that is not too long."""
    text = "; ".join(map(str, said)) if isinstance(said, list) else str(said)
    return " ".join(text.split())[:LONGEST]


def _program() -> str:
    """That of the Python that has this library, or, as in Salt's own packages, the one on the path."""
    beside = Path(sys.executable).with_name("salt-call")
    return str(beside) if beside.exists() else shutil.which("salt-call") or "salt-call"
