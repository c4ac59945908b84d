"""How one question reaches some member of etcd in time: which members are asked, when, and for how long.

A member that is stopped, black-holed or merely slow cannot be told apart by waiting, and waiting in turn
would give a slow but healthy etcd only a part of the deadline. So a question is *hedged*: it goes to one
member, after a quarter of the deadline without an answer to the next one as well, and so on; the first answer
counts. Each attempt runs in a thread of its own, so whatever hangs (connect, TLS, a name server, a member
that sends one byte a second) cannot hold the caller beyond its deadline.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chefha_core.parts.etcd_http import (
    Attempt,
    EtcdUnreachable,
    MemberFailed,
    NotAccepted,
    TlsFiles,
    open_pool,
)
from chefha_core.parts.etcd_login import Login

#: share of the deadline after which the next member is asked as well
HEDGE = 0.25
#: seconds in which a "compare failed" waits for the answer of an earlier, slower attempt of the same
#: transaction
SETTLE = 0.1
#: seconds after which the first endpoint, usually this machine's own member, is asked first again: whoever stays with
#: another's member hears nothing when that one's machine is lost
HOME = 5.0
#: threads that may hang at once before further attempts are refused (names that do not resolve hang for long)
MOST_WORKERS = 64


class Workers:
    """Daemon threads that run attempts and are kept for the next; a hung one holds up not even exit."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0
        self._closed = False

    def submit(self, job: Callable[[], None]) -> bool:
        """Run ``job`` soon in some thread; False if too many hang already. ``job`` must not raise."""
        with self._lock:
            if self._closed:
                return False
            if self._idle:
                self._idle -= 1
            elif self._threads >= MOST_WORKERS:
                return False
            else:
                self._threads += 1
                threading.Thread(target=self._work, name="chefha-etcd", daemon=True).start()
        self._jobs.put(job)
        return True

    def close(self) -> None:
        """Let the threads end as soon as they are free."""
        with self._lock:
            for _ in range(self._threads):
                self._jobs.put(None)
            self._closed = True

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._idle += 1


@dataclass(frozen=True)
class Answer:
    """What a member answered. ``doubtful``: an earlier attempt may have arrived too, its answer unknown."""

    data: dict[str, Any]
    endpoint: str
    doubtful: bool


class Transport:
    """All endpoints of one etcd; thread-safe, and started afresh in a forked child."""

    def __init__(self, endpoints: Sequence[str], tls: TlsFiles | None, login: Login) -> None:
        if not endpoints:
            raise ValueError("no endpoints of etcd were given")
        self.endpoints = tuple(endpoints)
        self.tls = tls
        self.login = login
        self._current = self.endpoints[0]
        self._home_at = 0.0
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._pools = {endpoint: open_pool(endpoint, self.tls) for endpoint in self.endpoints}
        self._workers = Workers()

    def close(self) -> None:
        """Close idle connections and let the threads end."""
        self._workers.close()
        for pool in self._pools.values():
            pool.close()

    def launch(
        self,
        endpoint: str,
        path: str,
        body: Mapping[str, Any],
        deadline: float,
        done: queue.SimpleQueue[Attempt],
    ) -> Attempt:
        """Ask one endpoint in the background; the attempt arrives in ``done`` when it has ended."""
        if self._pid != os.getpid():
            self._start()  # sockets shared with the parent and threads that did not survive the fork
        attempt = Attempt(endpoint, deadline)
        pool = self._pools[endpoint]

        def job() -> None:
            try:
                attempt.answer = self.login.ask(pool, path, body, attempt)
            except Exception as error:  # judged by whoever reads ``done``; nothing may kill a worker
                attempt.failure = error
            attempt.done = True
            done.put(attempt)

        if not self._workers.submit(job):
            attempt.failure = MemberFailed("the client is closed, or too many earlier questions still hang", sent=False)
            attempt.done = True
            done.put(attempt)
        return attempt

    def call(
        self,
        path: str,
        body: Mapping[str, Any],
        timeout: float,
        *,
        won: Callable[[dict[str, Any]], bool] | None = None,
    ) -> Answer:
        """The first answer within ``timeout`` seconds, beginning with the first endpoint, or for ``HOME`` seconds after
        that failed with the one that answered last.

        ``won``: an answer for which it is False (a lost compare) waits a moment for answers to earlier
        attempts, which may be the winner it lost against. EtcdUnreachable, EtcdRefused.
        """
        home, now = self.endpoints[0], time.monotonic()
        first = self.endpoints.index(self._current if now < self._home_at else home)
        order = [*self.endpoints[first:], *self.endpoints[:first]]
        answer = _Hedge(self, path, body, timeout, won).run(order)
        if first == 0 and answer.endpoint != home:
            self._home_at = now + HOME
        self._current = answer.endpoint
        return answer

    def ask_all(self, path: str, body: Mapping[str, Any], timeout: float) -> dict[str, Attempt]:
        """Every endpoint asked at once; what is not ``done`` got no answer within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        done: queue.SimpleQueue[Attempt] = queue.SimpleQueue()
        asked = [self.launch(endpoint, path, body, deadline, done) for endpoint in self.endpoints]
        ended: dict[str, Attempt] = {}
        with contextlib.suppress(queue.Empty):
            for _ in asked:
                attempt = done.get(timeout=max(0.0, deadline - time.monotonic()))
                ended[attempt.endpoint] = attempt
        for attempt in asked:
            attempt.break_off()
        return {endpoint: ended.get(endpoint, Attempt(endpoint, deadline)) for endpoint in self.endpoints}

    def ask_one(self, endpoint: str, path: str, body: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The answer of this very endpoint (one of ``endpoints``). EtcdUnreachable, EtcdRefused."""
        return _Hedge(self, path, body, timeout).run([endpoint]).data


class _Hedge:
    """One call: attempts started one after the other, ever more at once, until one answers or time is up."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        body: Mapping[str, Any],
        timeout: float,
        won: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        self.transport, self.path, self.body, self.won = transport, path, body, won
        self.timeout = timeout
        self.launch_at = time.monotonic()
        self.deadline = self.launch_at + timeout
        self.pause = min(0.02, timeout / 20)
        self.done: queue.SimpleQueue[Attempt] = queue.SimpleQueue()
        self.waiting: list[str] = []  # endpoints to be asked
        self.running: list[Attempt] = []
        self.again: list[str] = []  # endpoints that failed in a way that may be over soon
        self.reasons: dict[str, str] = {}
        self.lost = False  # an attempt may have arrived although it failed
        self.stranger: NotAccepted | None = None  # a member does not know the user, and may only lag
        self.loser: Attempt | None = None  # a lost compare, while the winner may still answer

    def run(self, order: Sequence[str]) -> Answer:
        """The answer, after the endpoints were asked in this order. EtcdUnreachable, EtcdRefused."""
        self.waiting = list(order)
        try:
            attempt = self._first()
            doubtful = self.lost or bool(self.running)
        finally:
            for pending in self.running:
                pending.break_off()
        if attempt is None:
            # where an attempt may have arrived a refusal by others does not mean that nothing was done
            raise self.stranger if self.stranger and not doubtful else self._unreachable()
        return Answer(attempt.answer, attempt.endpoint, doubtful)

    def _first(self) -> Attempt | None:
        """The attempt that answered; None if nobody did."""
        while True:
            now = time.monotonic()
            over = now >= self.deadline
            if not over and self.loser is None:
                self._launch_due(now)
            if not self.running and (self.loser or not self.waiting):
                return self.loser  # nobody is left who might know better
            until = self.deadline if self.loser or not self.waiting else min(self.deadline, self.launch_at)
            try:
                # also when time is up: an answer that came while this process stood still counts
                attempt = self.done.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                if over:
                    return self.loser
                continue
            if self._counts(attempt):
                return attempt

    def _launch_due(self, now: float) -> None:
        """Ask the next endpoint if it is time to."""
        if self.again and not self.waiting:
            self.waiting, self.again = self.again, []
            self.launch_at = now + self.pause
            self.pause = min(self.pause * 2, self.timeout * HEDGE)
        if self.waiting and now >= self.launch_at:
            endpoint = self.waiting.pop(0)
            self.running.append(self.transport.launch(endpoint, self.path, self.body, self.deadline, self.done))
            self.launch_at = now + self.timeout * HEDGE

    def _counts(self, attempt: Attempt) -> bool:
        """True if the attempt that ended is the answer; else what follows from it is noted. EtcdRefused."""
        self.running.remove(attempt)
        failure = attempt.failure
        if failure is None:
            if not self.running or self.won is None or self.won(attempt.answer):
                return True
            self.loser = attempt
            self.deadline = min(self.deadline, time.monotonic() + SETTLE)
        elif isinstance(failure, NotAccepted):
            self.reasons[attempt.endpoint], self.stranger = str(failure), failure
            self.launch_at = time.monotonic()
        elif isinstance(failure, MemberFailed):
            self.reasons[attempt.endpoint] = str(failure)
            self.lost = self.lost or failure.sent
            if failure.again:
                self.again.append(attempt.endpoint)
            self.launch_at = time.monotonic()  # it has failed: the next one need not wait
        elif self.loser is None:
            raise failure
        return False

    def _unreachable(self) -> EtcdUnreachable:
        for attempt in self.running:
            self.reasons.setdefault(attempt.endpoint, "did not answer in time")
        listed = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in self.reasons.items())
        message = f"no member of etcd answered with a quorum within {self.timeout:g} s ({listed})"
        return EtcdUnreachable(message, self.reasons)
