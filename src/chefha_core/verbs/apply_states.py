"""This node's states, applied by its own salt-call as its minion is configured: with a master or without."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chefha_core.verbs.reach import VerbError

#: seconds that a highstate may take: packages come over the network
LIMIT = 1800.0
PAUSE = 0.5


def salt_call(*words: str, timeout: float = 120.0) -> Any:
    """What a function of this minion returns; VerbError with its own words if it fails."""
    done = subprocess.run(
        [_program(), "--out=json", "--retcode-passthrough", *words],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    try:
        answer = json.loads(done.stdout)["local"]
    except (ValueError, KeyError, TypeError):
        answer = None
    if done.returncode or answer is None:
        said = answer if isinstance(answer, str) else f"{done.stderr}\n{done.stdout}"
        raise VerbError(" ".join(said.split())[-600:] or f"salt-call ended with {done.returncode}")
    return answer


def apply_states(meanwhile: Callable[[], None] = lambda: None, without: tuple[str, ...] = ()) -> None:
    """The highstate of this node; ``meanwhile`` is called again and again as long as it lasts; states ``without`` are
    left out. VerbError names the first state that failed.
    """
    left_out = [f"exclude={json.dumps([{'id': state} for state in without])}"] if without else []
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        command = [_program(), "--out=json", "--retcode-passthrough", "state.apply", *left_out]
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        end = time.monotonic() + LIMIT
        try:
            while process.poll() is None:
                if time.monotonic() > end:
                    raise VerbError(f"the states were not applied within {LIMIT:g} s")
                meanwhile()
                time.sleep(PAUSE)
        finally:
            if process.poll() is None:
                process.terminate()
        output.seek(0)
        errors.seek(0)
        if problem := failure(output.read(), errors.read(), process.returncode):
            raise VerbError(f"the states of this node could not be applied: {problem}")


def failure(output: str, errors: str, code: int) -> str:
    """The first state that failed, in words; "" if none did. Pure."""
    try:
        answer = json.loads(output)["local"]
    except (ValueError, KeyError, TypeError):
        return " ".join(f"{errors} {output}".split())[-600:] or f"salt-call ended with {code} and no answer"
    if not isinstance(answer, dict):
        return "; ".join(answer) if isinstance(answer, list) else str(answer)
    failed = [state for state in answer.values() if isinstance(state, dict) and state.get("result") is False]
    first = min(failed, key=lambda state: state.get("__run_num__", 0), default=None)
    return f"{first.get('__id__', first.get('name'))}: {first.get('comment')}" if first else ""


def _program() -> str:
    """The salt-call of the Python that has this library. VerbError."""
    beside = Path(sys.executable).with_name("salt-call")
    found = str(beside) if beside.exists() else shutil.which("salt-call") or _onedir()
    if not found:
        raise VerbError("there is no salt-call on this node: chefha's states are applied by Salt; install salt-minion")
    return found


def _onedir() -> str:
    path = Path("/opt/saltstack/salt/salt-call")
    return str(path) if path.exists() else ""
