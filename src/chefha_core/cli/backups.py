"""backup: what is copied away, and brought back."""

from __future__ import annotations

import argparse
import math
import sys
import time

from chefha_core.cli.terms import Parsers, confirm, node, show, show_step, takes_json, takes_timeout, takes_yes


def add(parsers: Parsers) -> None:
    """Declare the verbs of this group."""
    made = parsers.verb("backup", _backup, "an archive of this node's data, verified; meant for a follower")
    made.add_argument("-f", "--force", action="store_true", help="on the leader too")
    made.add_argument("--compression", default="", choices=("zstd", "gzip"), help="instead of backup:compression")
    made.add_argument("--max-rate", type=int, default=0, metavar="MB", help="read at most so many MB/s (0: no limit)")
    made.add_argument(
        "--incremental", nargs="?", const="newest", default="", metavar="ARCHIVE",
        help="only what changed since ARCHIVE, or since the newest one (PostgreSQL 17)",
    )  # fmt: skip
    takes_yes(made)
    takes_timeout(made, 4 * 3600.0)
    takes_json(made)
    made = parsers.verb("restore", _restore, "on the leader: replace all data of the cluster by an archive's")
    made.add_argument("path", metavar="PATH", help="the archive: a file, or its name in the store of backup")
    made.add_argument(
        "-d", "--staging-dir", default="", metavar="DIR", help="where it is extracted, on the data's file system"
    )
    made.add_argument("--target-time", default="", metavar="TIME", help="replay archived log up to then; ISO 8601")
    made.add_argument("--foreign", action="store_true", help="also an archive of another cluster")
    takes_yes(made)
    takes_timeout(made, 4 * 3600.0)
    takes_json(made)


def _restore(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import restore

    done = restore.restore(
        *node(),
        wanted.path,
        staging_dir=wanted.staging_dir,
        timeout=wanted.timeout,
        target_time=wanted.target_time,
        foreign=wanted.foreign,
        agree=lambda what: confirm(wanted, what),
        on_step=show_step,
    )
    away = f"; without {', '.join(done['away'])}, which did not report" if done["away"] else ""
    text = f"{done['archive']} is restored in epoch {done['epoch']}, in {done['seconds']:g} s{away}"
    text += f"\n{done['then']}"
    show(done, text, wanted.json)


def _backup(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import backup

    settings, name = node()
    if wanted.force and not wanted.yes and backup.leads(settings):
        confirm(wanted, "this node leads: reading all of its data slows down what its clients use")
    line = Progress()
    how = (wanted.force, wanted.timeout, wanted.compression, wanted.max_rate, wanted.incremental)
    try:
        done = backup.backup(settings, name, *how, line)
    finally:
        line.end()
    text = f"{done['archive']} ({size(done['bytes'])}), verified, in {done['seconds']:g} s"
    if not done["leader_asked"]:
        text += "\nno leader could be asked: what it acknowledged last may not have reached this node, and be missing"
    if done["retention"]:
        text += f"\n{done['retention']}"
    show(done, text, wanted.json)


class Progress:
    """Each second a line on stderr: how much, how fast, how long it will take. At a terminal it stays one line."""

    EVERY = 1.0

    def __init__(self) -> None:
        self._phase, self._began, self._said = "", 0.0, 0.0
        self._live = sys.stderr.isatty()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """``done`` of about ``total`` bytes of this phase."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began, self._said = phase, now, now
        if now - self._said < self.EVERY:
            return
        self._said = now
        rate = done / (now - self._began)
        left = f"{max(0, total - done) / rate:.0f} s left" if total and rate else ""
        share = f"{min(100, 100 * done / total):3.0f}%" if total else "    "
        text = f"{phase:10} {share} {size(done):>9} {size(rate):>8}/s  {left}".rstrip()
        print(f"\r{text:60}" if self._live else text, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """What is printed next begins a line."""
        if self._live and self._said:
            print(file=sys.stderr)


def size(count: float) -> str:
    """Bytes for people: 12.3 MB."""
    if count < 1000:
        return f"{count:.0f} B"
    power = min(4, int(math.log10(count) / 3))
    return f"{count / 1000**power:.1f} {' kMGT'[power]}B"
