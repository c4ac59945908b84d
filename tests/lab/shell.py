"""The shell command on a node, as a program calls it that has no terminal."""

from __future__ import annotations

import time

from lab.api import Lab

#: the verb does what it always does
WELL = ""
#: seconds until nobody waits any longer
PATIENCE = 40.0


def in_shell(lab: Lab, node: str, words: str) -> tuple[str, float]:
    """What chef-backend-ctl says: "" if it succeeds, or its one sentence; and the seconds it took."""
    began = time.monotonic()
    command = f"chef-backend-ctl {words} 2>&1 >/dev/null </dev/null"
    code, said = lab.exec(node, command, PATIENCE)
    took = time.monotonic() - began
    assert "Traceback" not in said, f"{words}: {said}"
    assert code in (0, 1), f"{words} ended with {code}: {said}"
    if code == 0:
        return WELL, took
    sentences = [line for line in said.splitlines() if line.startswith("chef-backend-ctl: ")]
    assert len(sentences) == 1, f"{words}: {said}"
    return sentences[0], took
