"""Network namespaces as hosts: threads live in them, with what they start."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


class Host:
    """A network namespace, and a thread that lives in it (with what it starts: processes, threads)."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip("netns", "add", name)
        self.pool = ThreadPoolExecutor(1, initializer=self.enter)

    def enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        handle = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if libc.setns(handle, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(handle)

    def start(self, call: Callable[..., T], *arguments: Any, **named: Any) -> Future[T]:
        return self.pool.submit(call, *arguments, **named)

    def run(self, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return self.start(call, *arguments, **named).result(20)

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.name, *arguments)

    def mac(self, interface: str = "lan") -> str:
        found: str = json.loads(self.ip("-j", "link", "show", "dev", interface))[0]["address"]
        return found

    def close(self) -> None:
        self.pool.shutdown()
        ip("netns", "del", self.name)


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.01)
