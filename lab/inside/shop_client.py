"""Put objects into the shop through the front ends in turn, get each back from the other one, search now and then.

Runs in the client's machine; its argument, a JSON object, says what to do; prints one JSON object at its end.
"""

from __future__ import annotations

import http.client
import itertools
import json
import sys
import time
import uuid
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

PATIENCE = 15.0
SEARCH_EVERY = 5
THREADS = 32
REFRESH = 1.5  # the search engine shows new documents once a second


def ask(address: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request over a new connection; its status and answer."""
    connection = http.client.HTTPConnection(address, 8080, timeout=PATIENCE)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def visit(number: int, word: str, here: str, there: str) -> list[tuple[str, str, float, str]]:
    """Put an object here, get it there, and maybe search; (what, front end, seconds, what went wrong) for each."""
    name, content = f"{word}-{number}", {"word": word, "number": number}
    steps: list[tuple[str, str, str, str, Any, Any]] = [
        ("put", here, "PUT", f"/objects/{name}", content, {"name": name}),
        ("get", there, "GET", f"/objects/{name}", None, content),
    ]
    if number % SEARCH_EVERY == 0:
        steps.append(("search", here, "GET", f"/search?q=word:{word}", None, None))
    done = []
    for what, address, method, path, body, expected in steps:
        began = time.monotonic()
        try:
            status, answer = ask(address, method, path, body)
            wrong = "" if status == 200 and expected in (None, answer) else f"{status}: {json.dumps(answer)[:200]}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            wrong = f"{type(error).__name__}: {error}"
        done.append((what, address, round(time.monotonic() - began, 3), wrong))
    return done


def main(addresses: dict[str, str], seconds: float, interval: float = 0.1) -> dict[str, Any]:
    """One object per interval, none waiting for another; a row per front end and kind of request."""
    word = uuid.uuid4().hex[:8]
    names = {address: name for name, address in addresses.items()}
    turns = itertools.cycle(zip(names, [*list(names)[1:], next(iter(names))], strict=True))
    began = time.monotonic()
    running: list[Future[list[tuple[str, str, float, str]]]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for number in itertools.count():
            time.sleep(max(0.0, began + number * interval - time.monotonic()))
            if time.monotonic() - began >= seconds:
                break
            running.append(pool.submit(visit, number, word, *next(turns)))
    done = [step for future in running for step in future.result()]
    rows = {
        (names[address], what): {
            "front_end": names[address],
            "what": what,
            "requests": sum(step[:2] == (what, address) for step in done),
            "failed": sum(step[:2] == (what, address) and bool(step[3]) for step in done),
            "slowest": max(step[2] for step in done if step[:2] == (what, address)),
        }
        for what, address, _, _ in done
    }
    time.sleep(REFRESH)
    status, found = ask(next(iter(names)), "GET", f"/search?q=word:{word}")
    return {
        "put": sum(step[0] == "put" and not step[3] for step in done),
        "rows": [rows[key] for key in sorted(rows)],
        "errors": dict(Counter(step[3] for step in done if step[3]).most_common(5)),
        "found": len(found["names"]) if status == 200 else 0,
    }


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
