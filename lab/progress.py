"""One line per step with the time it took, and an end of the relevant log when a step fails."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LabError(Exception):
    """Something the lab cannot do; the message says what and, where there is one, shows the end of its log."""


def tail(text: str, lines: int = 30) -> str:
    """Return the last lines of a log, indented so that they stand apart from the lab's own words."""
    return "\n".join("    " + line for line in text.rstrip().splitlines()[-lines:])


def tail_of(path: Path, lines: int = 30) -> str:
    """Return the end of a log file, or words that say why it can't be read."""
    try:
        return tail(path.read_text(errors="replace"), lines)
    except OSError as error:
        return f"    ({path}: {error.strerror})"


class Progress:
    """Prints steps. One instance per command; `quiet` is for tests, which have their own reporter."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        """Print a line of the lab's own. On stderr, so that stdout stays what a command was asked for."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Time the block, in seconds; a LabError that leaves it gets the step's name in front."""
        began = time.monotonic()
        try:
            yield
        except LabError as error:
            raise LabError(f"{what}: failed after {time.monotonic() - began:.1f} s\n{error}") from error
        self.say(f"{what:<58} {time.monotonic() - began:6.1f} s")
