"""python -m bench.backup: how fast `backup` is beside pg_basebackup alone, and how much memory it takes.

A PostgreSQL of its own on this machine, with rows such as Chef's, then in turn: pg_basebackup in plain format to the
same disk; pg_verifybackup of that; `backup`, which compresses, and verifies what it wrote. Everything is removed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.functional import pg_cluster
from tests.functional.pg_cluster import Node

from chefha_core.settings import Backup

from .report import store
from .surroundings import busy_share

#: an id, a random key, and a text that compresses like JSON: 258 bytes on disk, the index included
ROWS = """
insert into objects select n, gen_random_uuid(), format(
  '{"name": "node-%s", "chef_environment": "_default", "run_list": ["role[base]", "recipe[%s]"], "ip": "%s"}',
  n, md5(n::text), md5((-n)::text)) from generate_series(FROM, TO) n
"""
#: the same rows again under other numbers and keys, further apart than a compression looks back
AGAIN = "insert into objects select n + FROM, gen_random_uuid(), body from objects where n <= TO"
BYTES_PER_ROW = 258
CHUNK = 500_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; the table on stdout, all numbers in bench/results."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m bench.backup", description=__doc__)
    parser.add_argument("--gb", type=float, default=5.0, help="size of the database (5)")
    parser.add_argument("--runs", type=int, default=3, help="of each (3)")
    parser.add_argument("--compression", choices=("zstd", "gzip"), default="zstd")
    args = parser.parse_args(given)
    if problem := pg_cluster.usable():
        print(f"bench.backup: {problem}", file=sys.stderr)
        return 1
    with pg_cluster.cluster() as made:
        node = made.first()
        size = fill(node, args.gb)
        runs = [run for number in range(args.runs) for run in one_round(node, number, args.compression)]
    head = {"command": " ".join(["python -m bench.backup", *given]), "database": size, "cores": os.cpu_count()}
    path = store(f"{datetime.now().astimezone():%Y-%m-%d-%H%M}-backup", {**head, "runs": runs})
    print(table(runs, size) + f"\n\nall numbers: {path}")
    return 0


def fill(node: Node, gigabytes: float) -> int:
    """Rows until the database has that size; its bytes."""
    node.sql("create table objects (n bigint primary key, key uuid, body text)")
    count = int(gigabytes * 1e9 / BYTES_PER_ROW)
    node.sql(ROWS.replace("FROM", "1").replace("TO", str(CHUNK)))
    for start in range(CHUNK, count, CHUNK):
        node.sql(AGAIN.replace("FROM", str(start)).replace("TO", str(min(CHUNK, count - start))))
        print(f"\rfilling {100 * start / count:3.0f}%", end="", file=sys.stderr, flush=True)
    node.sql("vacuum analyze objects")
    node.sql("checkpoint")
    ((size,),) = node.sql("select sum(pg_database_size(oid))::bigint from pg_database")
    print(f"\r{int(str(size)) / 1e9:.2f} GB of database", file=sys.stderr)
    return int(str(size))


def one_round(node: Node, number: int, compression: str) -> list[dict[str, Any]]:
    """Each once; who begins takes turns."""
    place = node.places.home / "bench"
    steps: dict[str, Callable[[], Any]] = {
        "pg_basebackup": lambda: plain(node, place / "plain"),
        "backup": lambda: ours(node, place / "store", compression),
    }
    rows = []
    for name in sorted(steps, reverse=bool(number % 2)):
        place.mkdir()
        shutil.chown(place, "postgres", "postgres")
        os.sync()
        busy = busy_share()
        found = steps[name]()
        rows += [{"what": what, "run": number, "busy_before": busy, **row} for what, row in found.items()]
        print(rows[-1], file=sys.stderr, flush=True)
        shutil.rmtree(place)
    return rows


def plain(node: Node, target: Path) -> dict[str, Any]:
    """pg_basebackup as one would run it by hand, and then pg_verifybackup."""
    programs, socket = node.settings.pg_bin, str(node.places.sockets)
    connection = ["-h", socket, "-p", str(node.places.port), "-U", "postgres"]
    copy = measured([f"{programs}/pg_basebackup", "-D", str(target), "-c", "fast", *connection])
    check = measured([f"{programs}/pg_verifybackup", "-q", str(target)])
    return {"pg_basebackup": copy, "pg_basebackup, pg_verifybackup": {"seconds": copy["seconds"] + check["seconds"]}}


def measured(argv: list[str]) -> dict[str, Any]:
    """Seconds of a program run as postgres."""
    began = time.monotonic()
    subprocess.run(argv, check=True, user="postgres", group="postgres", cwd="/")
    return {"seconds": time.monotonic() - began}


def ours(node: Node, store: Path, compression: str) -> dict[str, Any]:
    """`backup` in a process of its own; the memory of all its processes together, looked at 5 times a second."""
    report, away = multiprocessing.get_context("spawn").Pipe(duplex=False)
    wanted = dataclasses.replace(node.settings, backup=Backup(directory=str(store), compression=compression))
    process = multiprocessing.get_context("spawn").Process(target=take, args=(away, wanted, node.name, node.places))
    began, peak = time.monotonic(), 0
    process.start()
    while not report.poll(0.2):
        peak = max(peak, sum(memory(pid) for pid in family(process.pid or 0)))
        if process.exitcode:
            raise SystemExit("backup failed, see above")
    done = report.recv()
    process.join()
    return {"backup": {"seconds": time.monotonic() - began, "bytes": done["bytes"], "read": done["read"], "peak": peak}}


def take(away: Any, settings: Any, name: str, places: Any) -> None:
    """What the process does."""
    from chefha_core.verbs import backup

    away.send(backup.backup(settings, name, force=True, places=places))


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = [pid]
    for member in found:
        found += parents.get(member, [])
    return found


def memory(pid: int) -> int:
    """Bytes of a process, those it shares with others divided among them."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def table(runs: Sequence[dict[str, Any]], size: int) -> str:
    """A line for each."""
    lines = [f"{'what':32}{'seconds min':>12}{'median':>9}{'max':>9}{'MB/s':>8}{'of the first':>14}"]
    first = 0.0
    for what in dict.fromkeys(sorted((run["what"] for run in runs), key=lambda w: (w == "backup", w))):
        seconds = [run["seconds"] for run in runs if run["what"] == what]
        middle = statistics.median(seconds)
        first = first or middle
        numbers = (
            f"{min(seconds):12.1f}{middle:9.1f}{max(seconds):9.1f}{size / middle / 1e6:8.0f}{first / middle:14.0%}"
        )
        lines.append(f"{what:32}{numbers}")
    own = [run for run in runs if run["what"] == "backup"]
    peak, share = max(run["peak"] for run in own), own[0]["bytes"] / own[0]["read"]
    busy = ", ".join(f"{run['busy_before']:.0%}" for run in own)
    lines.append(
        f"peak memory of all processes of backup {peak / 1e6:.0f} MB; the archive has {share:.0%} of what was read"
    )
    lines.append(f"share of the cores that was busy with other things before each backup: {busy}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
