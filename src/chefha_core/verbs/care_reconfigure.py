"""reconfigure: this node's states applied now, and what came of it in a few lines."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chefha_core.verbs.reach import VerbError

#: seconds that the master has to take a connection, and that the states may take
MASTER_DEADLINE = 5.0
TIMEOUT = 1800.0
#: seconds between two words that it is still going on
PATIENCE = 5.0
REQUEST_PORT = 4506
LONGEST = 500
#: run by Salt's Python, which is this one
OPTIONS = """
import json, salt.config
options = salt.config.minion_config("/etc/salt/minion")
print(json.dumps({name: options.get(name) for name in ("file_client", "master", "master_port")}))
"""


def summary(answer: object) -> dict[str, Any]:
    """What ``state.apply`` answered, in short; VerbError if it is no answer of states. Pure."""
    if isinstance(answer, (list, str)) or not answer or not isinstance(answer, Mapping):
        said = "; ".join(map(str, answer)) if isinstance(answer, list) else str(answer or "nothing")
        raise VerbError(f"reconfigure: no state was applied: {' '.join(said.split())[:LONGEST]}")
    changed, failed = {}, {}
    rows = [(str(row.get("__id__", key)), row) for key, row in answer.items() if isinstance(row, Mapping)]
    for name, row in rows:
        words = " ".join(str(row.get("comment", "")).split())[:LONGEST]
        if row.get("result") is False:
            failed[name] = words
        elif row.get("changes"):
            changed[name] = words
    return {"states": len(rows), "changed": changed, "failed": failed}


def refused_or(done: dict[str, Any]) -> dict[str, Any]:
    """The summary, or VerbError if a state failed: with reasons; the states that only waited for it are counted."""
    if not done["failed"]:
        return done
    reasons = {name: why for name, why in done["failed"].items() if "requisite failed" not in why}
    waiting = len(done["failed"]) - len(reasons)
    told = "; ".join(f"{name}: {why}" for name, why in reasons.items()) or "; ".join(done["failed"])
    also = f"; {waiting} more were not reached" if waiting else ""
    raise VerbError(f"reconfigure: {len(reasons) or waiting} of {done['states']} states failed: {told}{also}")


def master_problem(options: Mapping[str, Any]) -> str:
    """Why this minion's states cannot be had, "" if they can: a master must answer, unless it works without one."""
    if options.get("file_client") == "local":
        return ""
    masters = options.get("master") or "salt"
    named = [str(one) for one in (masters if isinstance(masters, list) else [masters])]
    problems = []
    for master in named:
        host, colon, port = master.rpartition(":") if master.count(":") == 1 else (master, "", "")
        try:
            at = (host or master, int(port) if colon else int(options.get("master_port") or REQUEST_PORT))
            socket.create_connection(at, MASTER_DEADLINE).close()
            return ""
        except (OSError, ValueError) as error:
            problems.append(f"{master}: {error}")
    return (
        f"reconfigure: no master answers ({'; '.join(problems)}), and the states and the pillar are there; nothing was "
        "changed, and what runs goes on running. Start the master, or name another in /etc/salt/minion"
    )


def reconfigure(on_step: Callable[[dict[str, Any]], None], timeout: float = TIMEOUT) -> dict[str, Any]:
    """Apply the states by ``salt-call``; the summary, VerbError with reasons if one failed or no master answers."""
    began = time.monotonic()
    problem = master_problem(_minion_options())
    if problem:
        raise VerbError(problem)

    def told(outcome: str) -> None:
        seconds = round(time.monotonic() - began, 3)
        on_step({"step": "the states of this node are applied", "seconds": seconds, "outcome": outcome})

    answer = _call(["state.apply"], timeout, lambda: told("goes on"))
    done = summary(answer)
    told("failed" if done["failed"] else "done")
    return refused_or(done)


def _minion_options() -> dict[str, Any]:
    """What the minion's configuration says of its master. ``salt-call --local`` would always say there is none."""
    try:
        done = subprocess.run([sys.executable, "-c", OPTIONS], capture_output=True, text=True, timeout=60, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except (OSError, ValueError, subprocess.SubprocessError):
        return {"file_client": "local"}  # salt-call itself says what is wrong


def _call(words: list[str], timeout: float, waiting: Callable[[], None]) -> Any:
    """What ``salt-call WORDS`` answers."""
    beside = Path(sys.executable).with_name("salt-call")
    program = str(beside) if beside.exists() else shutil.which("salt-call") or "salt-call"
    command = [program, "--out=json", "--log-level=quiet", *words]
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as call:
            end = time.monotonic() + timeout
            while True:
                try:
                    out, err = call.communicate(timeout=PATIENCE)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > end:
                        call.terminate()
                        raise VerbError(
                            f"reconfigure: not done after {timeout:g} s, so the states were ended; run it again"
                        ) from None
                    waiting()
    except OSError as error:
        raise VerbError(
            f"reconfigure: {program} cannot be run: {error}; is there a salt-minion on this node?"
        ) from None
    text = out.decode(errors="replace")
    try:
        return json.loads(text[text.index("{") :])["local"]
    except (ValueError, KeyError, TypeError):
        said = " ".join((err.decode(errors="replace") or text).split())[-LONGEST:]
        raise VerbError(
            f"reconfigure: {' '.join(command)} gave no answer: {said or f'code {call.returncode}'}"
        ) from None


def text(done: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"{name}: {why}" for name, why in done["changed"].items()]
    return "\n".join(
        [*lines, f"{done['states']} states are as wanted, {len(done['changed'])} of them changed something"]
    )
