"""Try TCP ports and say of each what nmap would: open, closed, filtered; or unreachable, where no way leads there.

Runs in any of the lab's machines; its argument, a JSON object, says what to try; prints one JSON list at its end.
"""

from __future__ import annotations

import errno
import json
import selectors
import socket
import sys
import time
from collections.abc import Iterable
from typing import Any

CLOSED = {errno.ECONNREFUSED, errno.ECONNRESET}
#: what a firewall that answers says
FILTERED = {errno.EACCES, errno.EPERM, errno.ETIMEDOUT}


def tries(targets: Iterable[tuple[str, int]], timeout: float = 1.0) -> list[tuple[str, int, str]]:
    """(address, port, what was found) for each target, all tried at once; without an answer in time: filtered."""
    found: dict[tuple[str, int], str] = {}
    with selectors.DefaultSelector() as waiting:
        for address, port in targets:
            caller = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            caller.setblocking(False)
            found[address, port] = word(caller.connect_ex((address, port)))
            waiting.register(caller, selectors.EVENT_WRITE, (address, port))
        end = time.monotonic() + timeout
        while waiting.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                caller = key.fileobj  # type: ignore[assignment]
                if found[key.data] == "filtered":
                    found[key.data] = word(caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
                waiting.unregister(caller)
                caller.close()
        for key in list(waiting.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return [(address, port, what) for (address, port), what in found.items()]


def word(code: int) -> str:
    """An errno of connect in a word; one that is still under way counts as filtered until it has ended."""
    if code == 0:
        return "open"
    if code in CLOSED:
        return "closed"
    return "filtered" if code in FILTERED or code == errno.EINPROGRESS else "unreachable"


def main(job: dict[str, Any]) -> None:
    """Print what was found."""
    print(json.dumps(tries([(address, port) for address, port in job["targets"]], job["timeout"])))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
