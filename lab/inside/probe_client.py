"""Write through the VIP at a steady pace, each write over a new connection, and tell how each went.

Runs in the client's and the watch host's machine; the first argument is a JSON object (see Job). Ends by itself after
`seconds` or when the stop file appears, then reads back what was acknowledged and prints one JSON object.
The password comes in the environment (PGPASSWORD).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .pgwire import PgError, ProtocolError, Server

RTM_DELNEIGH, NLM_F_REQUEST, NDA_DST = 29, 1, 1
LANE = 1_000_000_000
# So many writes at once inside the server mean that it can't keep the pace (or hangs): more would only make each of
# them late, until all miss their deadline. Then one attempt per SLOW seconds, so that an outage's end is still seen.
CROWDED = 10
SLOW = 0.05

# Which node answers: its cluster_name, but for a product that gives one and the same to all nodes.
NODE = "coalesce(nullif(current_setting('lab.node', true), ''), current_setting('cluster_name'))"


@dataclass(frozen=True)
class Job:
    """What to do. Times in seconds. `lane` keeps the ids of several writers apart; `forget` deletes the VIP's
    ARP entry before each write; `ready` and `stop` are the files that tell the lab and are told by it."""

    vip: str
    user: str
    action: str = "write"
    interface: str = "eth0"
    table: str = "chefha_probe"
    seconds: float = 20.0
    interval: float = 0.01
    deadline: float = 1.0
    settle: float = 60.0
    in_flight: int = 150
    lane: int = 0
    forget: bool = False
    ready: str = ""
    stop: str = ""


@dataclass
class Tally:
    """What became of the attempts; times in seconds since the writer's first."""

    attempts: int = 0
    skipped: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    acks: list[tuple[int, float, float, str, int]] = field(default_factory=list)  # id, start, end, node, timeline
    failed: list[tuple[float, str]] = field(default_factory=list)


async def main(job: Job) -> dict[str, Any]:
    """Carry out the job; return what is to be printed."""
    server = Server(job.vip, job.user, os.environ["PGPASSWORD"])
    if job.action == "drop":
        await insist(server, f"DROP TABLE IF EXISTS {job.table}", job.settle)
        return {}
    if job.lane == 0:
        await insist(server, f"DROP TABLE IF EXISTS {job.table}", job.settle)
        await insist(server, f"CREATE TABLE {job.table} (id bigint PRIMARY KEY)", job.settle)
    began_at, busy = time.time(), cpu_seconds()
    tally, seconds = await write(server, job)
    busy = cpu_seconds() - busy
    stored, waited = await read_back(server, job)
    return {
        "began_at": began_at,
        "seconds": seconds,
        "cpu_seconds": busy,
        "attempts": tally.attempts,
        "skipped": tally.skipped,
        "errors": dict(tally.errors),
        "acks": tally.acks,
        "failed": tally.failed[:2000],
        "read_back_after": waited,
        "missing": None if stored is None else sorted({ack[0] for ack in tally.acks} - stored),
    }


async def write(server: Server, job: Job) -> tuple[Tally, float]:
    """The writes, one every `interval`, none waiting for another; return the tally and how long it took."""
    tally, tasks = Tally(), set[asyncio.Task[None]]()
    began = turn = time.monotonic()
    last = 0.0
    number = 0
    while time.monotonic() - began < job.seconds and not (number % 10 == 0 and is_file(job.stop)):
        number += 1
        crowded = server.served >= CROWDED and time.monotonic() - last < SLOW
        if crowded or len(tasks) >= job.in_flight:
            tally.skipped += 1
        else:
            last = time.monotonic()
            if job.forget:
                forget(job.vip, job.interface)
            tally.attempts += 1
            task = asyncio.create_task(attempt(server, job, job.lane * LANE + number, began, tally))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        # To the pace, not after the last write; what a busy machine made us miss is not caught up in a burst.
        turn = max(turn + job.interval, time.monotonic() - job.interval)
        await asyncio.sleep(max(0.0, turn - time.monotonic()))
    seconds = time.monotonic() - began
    if tasks:
        await asyncio.wait(set(tasks))
    return tally, seconds


async def attempt(server: Server, job: Job, number: int, began: float, tally: Tally) -> None:
    """One write over one new connection, at most `deadline` seconds from connecting to acknowledgement."""
    sql = (
        f"INSERT INTO {job.table} VALUES ({number}) "
        f"RETURNING {NODE}, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
    )
    start = time.monotonic() - began
    try:
        async with asyncio.timeout(job.deadline):
            rows = await server.query(sql)
        node, timeline = rows[0]
    except (OSError, PgError, ProtocolError, IndexError) as error:
        kind = kind_of(error)
        tally.errors[kind] += 1
        tally.failed.append((round(start, 3), kind))
        return
    if not tally.acks and job.ready:
        Path(job.ready).touch()
    tally.acks.append((number, round(start, 4), round(time.monotonic() - began, 4), node, int(timeline, 16)))


async def insist(server: Server, sql: str, patience: float) -> list[list[str]]:
    """Repeat a statement until it succeeds; its last error after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            async with asyncio.timeout(5):
                return await server.query(sql)
        except (OSError, PgError, ProtocolError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def read_back(server: Server, job: Job) -> tuple[set[int] | None, float]:
    """All ids of this lane as a node that takes writes has them (None: nobody came to), and how long that took."""
    low = job.lane * LANE
    ids_of_lane = f"FROM {job.table} WHERE id BETWEEN {low} AND {low + LANE - 1}"
    sql = f"SELECT pg_is_in_recovery(), string_agg(id::text, ',') {ids_of_lane}"
    began = time.monotonic()
    while time.monotonic() - began < job.settle:
        try:
            [[standby, ids]] = await insist(server, sql, job.settle)
        except (OSError, PgError, ProtocolError):
            break
        if standby == "f":
            return {int(number) for number in ids.split(",") if number}, round(time.monotonic() - began, 3)
        await asyncio.sleep(0.2)
    return None, round(time.monotonic() - began, 3)


def kind_of(error: Exception) -> str:
    """A short, countable name for what went wrong."""
    if isinstance(error, PgError):
        return f"sqlstate {error.code}"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "deadline"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__


def forget(address: str, interface: str) -> None:
    """Delete the kernel's neighbour entry of an address, as `ip neigh del`; nothing happens if there is none."""
    body = struct.pack("=BxxxiHBB", socket.AF_INET, socket.if_nametoindex(interface), 0, 0, 0)
    body += struct.pack("=HH", 8, NDA_DST) + socket.inet_aton(address)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.send(struct.pack("=IHHII", 16 + len(body), RTM_DELNEIGH, NLM_F_REQUEST, 1, 0) + body)


def is_file(name: str) -> bool:
    return bool(name) and Path(name).exists()


def cpu_seconds() -> float:
    """CPU time this process has used, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    try:
        print(json.dumps(asyncio.run(main(Job(**json.loads(sys.argv[1]))))))
    except (OSError, PgError, ProtocolError) as failure:
        sys.exit(f"the probe can't write through the VIP: {kind_of(failure)}: {failure}")
