"""Search after a loss of its majority: the one node that is left becomes a cluster of its own, with its documents.

By the maker's own program, ``opensearch-node unsafe-bootstrap``, which asks back on its standard input and wants the
engine stopped. What only lost nodes had is gone; Chef can index everything anew.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from chefha_core.parts.search import SearchClient, SearchError
from chefha_core.search_engine import CONFIG, START, UNIT, USER, engine_of
from chefha_core.settings import Settings
from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.systemd import systemctl

#: seconds for the program (it starts a Java), for one question, and between two
PROGRAM, DEADLINE, LOOK = 120.0, 3.0, 0.5
NOT_YET = "not yet: "


def go_on_alone(settings: Settings, name: str, wait: float, start: Path = Path(START)) -> str:
    """Make it so, and wait ``wait`` seconds until it answers; what came of it, in words. Never raises: the rest goes on
    without search."""
    seen = answers(settings, name, 0.0)
    if not seen.startswith(NOT_YET):
        return seen
    try:
        command, environment = program(settings, start.read_text(encoding="utf-8"))
        systemctl("stop", UNIT)
        try:
            done = subprocess.run(
                command, env=environment, input="y\n", capture_output=True, text=True, timeout=PROGRAM, check=False,
                user=USER, group=USER, extra_groups=[], cwd="/",
            )  # fmt: skip
        finally:
            systemctl("start", UNIT)
    except (OSError, VerbError, subprocess.TimeoutExpired) as error:
        return f"not brought back: {error}"
    if done.returncode:
        said = " ".join(f"{done.stderr} {done.stdout}".split())[-300:]
        return f"not brought back: {' '.join(command)} ended with {done.returncode}: {said}"
    return answers(settings, name, wait)


def program(settings: Settings, started_with: str) -> tuple[list[str], dict[str, str]]:
    """The maker's program and its environment, by what the engine was last started with; pure. VerbError."""
    engine = engine_of(settings.search)
    found = dict(line.split("=", 1) for line in started_with.splitlines() if "=" in line)
    words = found.pop("SEARCH_COMMAND", "").split()
    if not words:
        raise VerbError(f"{START} does not say where the engine is")
    java = {f"{engine.prefix}_JAVA_HOME": settings.search.java_home} if settings.search.java_home else {}
    environment = {"PATH": "/usr/bin:/bin", f"{engine.prefix}_PATH_CONF": CONFIG, **java, **found}
    return [f"{words[0]}-node", "unsafe-bootstrap"], environment


def answers(settings: Settings, name: str, wait: float) -> str:
    """The colour of search as soon as it has a master, or why it has none after so many seconds."""
    if settings.search.flavor == "none":
        return "there is none"
    client, end = SearchClient(settings.members[name], settings.search.port, DEADLINE), time.monotonic() + wait
    try:
        while True:
            try:
                return client.health().status
            except SearchError as error:
                if time.monotonic() > end:
                    return f"{NOT_YET}{error}"
            time.sleep(LOOK)
    finally:
        client.close()
