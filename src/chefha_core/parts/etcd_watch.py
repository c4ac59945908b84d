"""A thread that hears of every change under the prefix about a millisecond after etcd has it.

It is a doorbell, not a source of truth: whoever hears it reads etcd again before acting.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import urllib3.exceptions

from chefha_core.parts.etcd import EtcdClient, decode_kv, key_range
from chefha_core.parts.etcd_hedge import HOME
from chefha_core.parts.etcd_http import (
    PERMISSION_DENIED,
    Attempt,
    EtcdError,
    EtcdRefused,
    MemberFailed,
    decode,
    open_pool,
    send,
)
from chefha_core.parts.etcd_login import TOKENS

log = logging.getLogger(__name__)

#: seconds before trying again when every endpoint has failed, doubled up to the second number
_PAUSES = (0.05, 1.0)

#: on_change(key without prefix, "put" or "delete", value or None, mod_revision, monotonic time of arrival)
OnChange = Callable[[str, str, str | None, int, float], None]


class Doorbell(threading.Thread):
    """Watches the prefix of ``client`` and calls ``on_change`` for every event, in order, once.

    After an error it goes on at another endpoint exactly where it was, and tries the first one again every ``HOME``
    seconds. ``on_gap()`` is called where that is
    impossible (compacted away, or etcd was restored and its revisions went back): then read everything again.
    Both are called in this thread and should return quickly; what they raise is logged and forgotten.

    ``idle``: seconds without any event after which the member is suspected to hang and another one is asked
    (etcd has no way to ask a silent watch over JSON whether it lives); choose more than the time between two
    usual changes. ``opening``: seconds a member may take to open the watch. ``start_revision``: first
    revision to hear of, usually ``Snapshot.revision + 1``; 0 means from now on.
    """

    def __init__(
        self,
        client: EtcdClient,
        on_change: OnChange,
        *,
        on_gap: Callable[[], None] = lambda: None,
        idle: float = 5.0,
        opening: float = 1.0,
        start_revision: int = 0,
    ) -> None:
        super().__init__(name="chefha-doorbell", daemon=True)
        self._client, self._on_change, self._on_gap = client, on_change, on_gap
        self._idle, self._opening = idle, opening
        self._next = start_revision
        self._stopping = threading.Event()
        self._attempt: Attempt | None = None
        self.listening = threading.Event()
        #: the endpoint being watched now, or tried last
        self.endpoint = client.endpoints[0]
        #: why the last watch ended, "" if none has
        self.problem = ""

    @property
    def next_revision(self) -> int:
        """The first revision not heard of yet; 0 before the first watch is open."""
        return self._next

    def stop(self) -> None:
        """End the thread now; ``join`` returns within milliseconds, or after a connect that is under way."""
        self._stopping.set()
        attempt = self._attempt
        if attempt is not None:
            attempt.break_off()

    def run(self) -> None:
        """Watch until stopped."""
        endpoints, turn, failed, pause = self._client.endpoints, 0, 0, _PAUSES[0]
        while not self._stopping.is_set():
            self.endpoint = endpoints[turn % len(endpoints)]
            turn += 1
            try:
                if self._watch(self.endpoint):
                    turn = 0
                    continue
                self.problem = "the member ended the watch"
            except (MemberFailed, EtcdError, urllib3.exceptions.HTTPError, OSError) as error:
                self.problem = str(error) or type(error).__name__
            except Exception as error:  # a doorbell that dies in silence is worse than any of its errors
                self.problem = repr(error)
                log.exception("the watch on %s failed in an unexpected way", self.endpoint)
            if self._stopping.is_set():
                break
            log.info(
                "watch on %s ended (%s); going on elsewhere at revision %s",
                self.endpoint,
                self.problem,
                self._next,
            )
            failed = 0 if self.listening.is_set() else failed + 1
            self.listening.clear()
            if failed and failed % len(endpoints) == 0:
                self._stopping.wait(pause)
                pause = min(pause * 2, _PAUSES[1])
            elif not failed:
                pause = _PAUSES[0]
        self.listening.clear()

    def _watch(self, endpoint: str) -> bool:
        """One watch on one endpoint, until it ends or breaks; True if it is time to try the first endpoint again."""
        for _ in range(TOKENS):
            token = self._client.login.token(endpoint)
            try:
                return self._listen(endpoint, token)
            except EtcdRefused as refusal:
                if not self._client.login.wanted(refusal, token):
                    raise
            self._new_token(endpoint, token)
        raise MemberFailed("it refuses its own tokens")

    def _new_token(self, endpoint: str, refused: str) -> None:
        pool = open_pool(endpoint, self._client.tls)
        attempt = self._attempt = Attempt(endpoint, time.monotonic() + self._opening)
        try:
            self._client.login.renew(pool, attempt, refused)
        finally:
            self._attempt = None
            pool.close()

    def _listen(self, endpoint: str, token: str) -> bool:
        home_at = time.monotonic() + (HOME if endpoint != self._client.endpoints[0] else math.inf)
        request = {**key_range(self._client.prefix), "start_revision": str(self._next)}
        pool = open_pool(endpoint, self._client.tls)
        attempt = self._attempt = Attempt(endpoint, time.monotonic() + self._opening)
        try:
            response = send(pool, "/v3/watch", {"create_request": request}, attempt, token, stream=True)
            sock = getattr(attempt.connection, "sock", None)
            if sock is not None:
                sock.settimeout(self._idle)
            if self._stopping.is_set():
                return False
            for line in _lines(response, self._idle):
                self._hear(decode(response.status, line), time.monotonic())
                if time.monotonic() > home_at:
                    return True
            return False
        except urllib3.exceptions.ReadTimeoutError:
            raise MemberFailed(f"nothing was heard from it for {self._idle:g} s") from None
        finally:
            attempt.break_off()
            self._attempt = None
            pool.close()

    def _hear(self, message: dict[str, Any], now: float) -> None:
        if message.get("canceled"):
            self._cancelled(str(message.get("cancel_reason", "")), int(message.get("compact_revision", 0)))
        if message.get("created"):
            self._opened(int(message.get("header", {}).get("revision", 0)))
        newest = 0
        for event in message.get("events", ()):
            kv = decode_kv(event["kv"], self._client.prefix)
            if kv.mod_revision < self._next:
                continue
            deleted = event.get("type") == "DELETE"
            self._call(self._on_change, kv.key, "delete" if deleted else "put", None if deleted else kv.value,
                       kv.mod_revision, now)  # fmt: skip
            newest = max(newest, kv.mod_revision)
        # not the header's revision: while a watch catches up that is already ahead of the events still to
        # come
        self._next = max(self._next, newest + 1)

    def _cancelled(self, reason: str, compacted: int) -> None:
        """etcd ended the watch, or never began it: why, as an error."""
        if compacted and compacted >= self._next:
            self._gap(compacted)  # the oldest that etcd still has: hear all of it
        elif "desc = etcdserver: " in reason:  # a refusal in gRPC's words
            code = PERMISSION_DENIED if "PermissionDenied" in reason else 2
            raise EtcdRefused(f"etcd refused: {reason.partition('desc = ')[2]}", code)
        raise MemberFailed(reason or "the watch was cancelled")

    def _opened(self, revision: int) -> None:
        """The watch is open at a member that is at ``revision``."""
        if not self._next:
            self._next = revision + 1
        elif revision + 1 < self._next:
            # either this member lags, and will catch up, or etcd was restored to an older state and the
            # revision waited for means something else now: a linearizable read tells them apart
            newest = self._client.range("\0none").revision
            if newest + 1 < self._next:
                self._gap(newest + 1)
                raise MemberFailed("etcd's revisions went back: it was restored or created again")
        self.listening.set()

    def _gap(self, go_on_at: int) -> None:
        self._next = go_on_at
        self._call(self._on_gap)

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            log.exception("a listener of etcd's changes failed; the watch goes on")


def _lines(response: Any, idle: float) -> Iterator[bytes]:
    """Whole lines as they arrive; MemberFailed if bytes trickle in without ever completing one."""
    buffer, heard = b"", time.monotonic()
    for chunk in response.stream(1 << 16):
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if lines:
            heard = time.monotonic()
        elif time.monotonic() - heard > idle:
            raise MemberFailed(f"no whole message was heard from it for {idle:g} s")
    if buffer.strip():
        yield buffer
