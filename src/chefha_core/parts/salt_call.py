"""``salt-call`` on this machine: states applied by a process of their own, with whatever library is then installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class SaltFailed(Exception):
    """salt-call did not do what was asked; one sentence."""


def salt_call(function: str, *arguments: str, timeout: float) -> Any:
    """What ``salt-call FUNCTION ARGUMENTS`` returns, within ``timeout`` seconds; SaltFailed."""
    asked = " ".join(["salt-call", function, *arguments])
    try:
        done = subprocess.run(
            [_program(), "--out=json", "--retcode-passthrough", function, *arguments],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SaltFailed(f"{asked} was not done within {timeout:g} s") from None
    except OSError as error:
        raise SaltFailed(f"{asked} could not be started: {error}") from None
    return answer(asked, done.stdout, done.returncode, done.stderr)


def apply(test: bool, timeout: float) -> list[str]:
    """Apply chefha's states, with the master's modules: those that changed (``test``: would change) something."""
    salt_call("saltutil.sync_all", timeout=timeout)  # a process of its own: what it brings is loaded by the next one
    return changes(salt_call("state.apply", "chefha", "queue=True", f"test={test}", timeout=timeout))


def changes(states: Any) -> list[str]:
    """Names of the states with changes in what state.apply returned; SaltFailed with the comment of the first that
    failed. Pure.
    """
    rows = sorted(states.values(), key=lambda row: int(row.get("__run_num__", 0)))
    for row in rows:
        if row.get("result") is False:
            raise SaltFailed(f"state {row.get('__id__', '?')} failed: {_line(row.get('comment'))}")
    return [str(row.get("__id__", "?")) for row in rows if row.get("changes")]


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
    """A text, or a list of texts, as one line."""
    text = " ".join(map(str, said)) if isinstance(said, list) else str(said)
    return " ".join(text.split())


def _program() -> str:
    """That of the Python that has this library, or, as in Salt's own packages, the one on the path."""
    beside = Path(sys.executable).with_name("salt-call")
    return str(beside) if beside.exists() else shutil.which("salt-call") or "salt-call"
