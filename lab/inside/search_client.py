"""Index documents through the VIP at a steady pace, each over a new connection, search now and then, tell how it went.

Runs in the client's machine; the argument is a JSON object (see Job). Ends by itself after `seconds` or when the stop
file appears, then looks which acknowledged documents can be found, and prints one JSON object. Beside that it asks
every search node whether it lives: what is lost without a majority of them is another matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRIES = (OSError, ValueError, EOFError)
LOOK_EVERY = 0.5
SEARCH_EVERY = 4
MOST = 10_000  # documents that one search may return


class Refused(Exception):
    """The search engine answered with an error."""


@dataclass(frozen=True)
class Job:
    """What to do. Times in seconds. `nodes`: addresses of the search nodes; `ready` and `stop` are files."""

    vip: str
    nodes: tuple[str, ...]
    index: str = "chefha-lab-probe"
    port: int = 9200
    seconds: float = 20.0
    interval: float = 0.25
    deadline: float = 2.0
    settle: float = 60.0
    in_flight: int = 40
    ready: str = ""
    stop: str = ""


@dataclass
class Tally:
    """What became of the attempts; times in seconds since the first."""

    attempts: int = 0
    skipped: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    acks: list[tuple[int, float]] = field(default_factory=list)  # id, when it was acknowledged
    searches: int = 0
    answered: list[float] = field(default_factory=list)  # when a search was answered completely
    living: list[tuple[float, int]] = field(default_factory=list)  # when, how many nodes lived from then on


async def main(job: Job) -> dict[str, Any]:
    """Carry out the job; return what is to be printed."""
    # A copy on each node: an acknowledged document is on every node that is in step.
    index = {"settings": {"number_of_shards": 1, "number_of_replicas": len(job.nodes) - 1}}
    await insist(job, "DELETE", f"/{job.index}?ignore_unavailable=true")
    await insist(job, "PUT", f"/{job.index}?wait_for_active_shards=all", index)
    began_at, began = time.time(), time.monotonic()
    tally = Tally()
    watching = asyncio.create_task(watch(job, tally, began))
    await write(job, tally, began)
    seconds = time.monotonic() - began
    watching.cancel()
    found = await read_back(job)
    acknowledged = {number for number, _ in tally.acks}
    await insist(job, "DELETE", f"/{job.index}?ignore_unavailable=true", or_not=True)
    return {
        "began_at": began_at,
        "seconds": seconds,
        "attempts": tally.attempts,
        "skipped": tally.skipped,
        "errors": dict(tally.errors),
        "acks": tally.acks,
        "searches": tally.searches,
        "answered": tally.answered,
        "living": tally.living,
        "missing": None if found is None else sorted(acknowledged - found),
    }


async def write(job: Job, tally: Tally, began: float) -> None:
    """A document every `interval`, none waiting for another; with some of them a search."""
    tasks = set[asyncio.Task[None]]()
    number = 0
    while time.monotonic() - began < job.seconds and not (job.stop and Path(job.stop).exists()):
        number += 1
        if len(tasks) >= job.in_flight:
            tally.skipped += 1
        else:
            work = [index_one(job, number, began, tally)]
            work += [search_one(job, began, tally)] if number % SEARCH_EVERY == 0 else []
            for one in work:
                task = asyncio.create_task(one)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        await asyncio.sleep(max(0.0, began + number * job.interval - time.monotonic()))
    if tasks:
        await asyncio.wait(set(tasks))


async def index_one(job: Job, number: int, began: float, tally: Tally) -> None:
    """One document, at most `deadline` seconds from connecting to acknowledgement; never tried twice."""
    tally.attempts += 1
    path = f"/{job.index}/_create/{number}?timeout={int(job.deadline * 1000)}ms"
    try:
        answer = await ask(job, job.vip, "PUT", path, {"number": number, "word": "probe"})
    except (Refused, *TRIES) as error:
        tally.errors[kind_of(error)] += 1
        return
    if answer.get("result") == "created" and answer.get("_shards", {}).get("successful", 0) >= 1:
        if not tally.acks and job.ready:
            Path(job.ready).touch()
        tally.acks.append((number, round(time.monotonic() - began, 4)))


async def search_one(job: Job, began: float, tally: Tally) -> None:
    """One search; that it answers completely is all that is looked at."""
    tally.searches += 1
    with contextlib.suppress(Refused, KeyError, *TRIES):
        answer = await ask(job, job.vip, "GET", f"/{job.index}/_search?q=word:probe&size=1")
        if not answer["timed_out"] and not answer["_shards"]["failed"]:
            tally.answered.append(round(time.monotonic() - began, 4))


async def watch(job: Job, tally: Tally, began: float) -> None:
    """Note how many search nodes live whenever that changes."""
    while True:
        now = round(time.monotonic() - began, 2)
        answers = await asyncio.gather(*(lives(job, node) for node in job.nodes))
        if not tally.living or tally.living[-1][1] != sum(answers):
            tally.living.append((now, sum(answers)))
        await asyncio.sleep(LOOK_EVERY)


async def lives(job: Job, node: str) -> bool:
    """Whether a node's search answers for itself."""
    try:
        await ask(job, node, "GET", "/_nodes/_local/http?timeout=1s")
    except (Refused, *TRIES):
        return False
    return True


async def read_back(job: Job) -> set[int] | None:
    """Ids of all documents that can be found now; None if nobody came to answer for all shards."""
    until = time.monotonic() + job.settle
    while time.monotonic() < until:
        await insist(job, "POST", f"/{job.index}/_refresh", or_not=True)
        found = await insist(job, "GET", f"/{job.index}/_search?size={MOST}&_source=false", or_not=True)
        shards = (found or {}).get("_shards", {})
        if found and shards.get("total") and shards.get("successful") == shards["total"]:
            return {int(hit["_id"]) for hit in found["hits"]["hits"]}
        await asyncio.sleep(0.5)
    return None


async def insist(job: Job, method: str, path: str, body: Any = None, or_not: bool = False) -> Any:
    """Repeat a request until it succeeds; after `settle` seconds its last error, or None if that may be."""
    until = time.monotonic() + job.settle
    while True:
        try:
            return await ask(job, job.vip, method, path, body, 10.0)
        except (Refused, *TRIES) as error:
            if "resource_already_exists" in str(error):  # its first answer was late
                return {}
            if time.monotonic() > until:
                if or_not:
                    return None
                raise
            await asyncio.sleep(0.3)


async def ask(job: Job, host: str, method: str, path: str, body: Any = None, deadline: float = 0.0) -> Any:
    """One request over a new connection; its answer. OSError, EOFError or ValueError if there is none, or Refused."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    async with asyncio.timeout(deadline or job.deadline):
        reader, writer = await asyncio.open_connection(host, job.port, limit=1 << 24)
        try:
            writer.write(head.encode() + b"\r\n\r\n" + data)
            answer = await reader.read()
        finally:
            writer.transport.abort()
    status, _, content = answer.partition(b"\r\n\r\n")
    if not content:
        raise EOFError("connection closed without an answer")
    if not status.split()[1].startswith(b"2"):
        raise Refused(f"{status.split()[1].decode()}: {content[:300].decode(errors='replace')}")
    return json.loads(content)


def kind_of(error: Exception) -> str:
    """A short, countable name for what went wrong."""
    if isinstance(error, Refused):
        return f"status {str(error)[:3]}"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "deadline"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error).lower() or type(error).__name__


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        print(json.dumps(asyncio.run(main(Job(**{**given, "nodes": tuple(given["nodes"])})))))
    except (Refused, *TRIES) as failure:
        sys.exit(f"the probe can't index through the VIP: {kind_of(failure)}: {failure}")
