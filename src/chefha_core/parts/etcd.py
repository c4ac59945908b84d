"""etcd, spoken through its v3 JSON gateway: reads, transactions, leases, members. See etcd_http.py for the
deadlines.

Works with etcd 3.4 and 3.5. Keys are relative to the client's prefix, values are text (UTF-8), times are
seconds on the monotonic clock, revisions and leases are integers, ids of members hexadecimal text as etcdctl
prints them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chefha_core.parts.etcd_hedge import Transport
from chefha_core.parts.etcd_http import (
    PERMISSION_DENIED,
    Attempt,
    EtcdError,
    EtcdRefused,
    EtcdUnreachable,
    MemberFailed,
    NotAccepted,
    TlsFiles,
)
from chefha_core.parts.etcd_login import Login
from chefha_core.parts.etcd_values import (
    Compare,
    Delete,
    EtcdAlarm,
    EtcdMember,
    EtcdStatus,
    Health,
    KeyValue,
    Op,
    Put,
    Snapshot,
    TxnResult,
)

__all__ = [
    "Compare",
    "Delete",
    "EtcdAlarm",
    "EtcdClient",
    "EtcdError",
    "EtcdMember",
    "EtcdRefused",
    "EtcdStatus",
    "EtcdUnreachable",
    "Health",
    "KeyValue",
    "NotAccepted",
    "Put",
    "Snapshot",
    "TlsFiles",
    "TxnResult",
]

#: gRPC's code for "there is no such lease"
_NOT_FOUND = 5
#: gRPC's code for what cannot be as things are, such as a question about a user who does not exist
_NO_SUCH_USER = 9


class EtcdClient:
    """A thread-safe client of one etcd.

    ``timeout`` (seconds; each method takes another one as ``timeout=``) is the deadline of a whole call over
    all endpoints. Every method raises EtcdUnreachable if no endpoint answered with a quorum in that time, and
    EtcdRefused if etcd answered with an error; NotAccepted is the one about ``user`` and ``password``, which are
    used only where etcd asks for them. ``former``: the password that etcd may still have, while it is exchanged.

    **Writes may happen late.** A write whose answer is lost may have been applied, and one sent to a member
    that is stopped may be applied minutes later, when it goes on. Whatever decides something must therefore
    be a ``txn`` whose compares cannot hold any more once the world has moved on (``Compare.mod_revision``),
    never a bare ``put``.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        prefix: str,
        timeout: float,
        tls: TlsFiles | None = None,
        user: str = "",
        password: str = "",
        former: str = "",
    ) -> None:
        self.prefix = prefix.rstrip("/") + "/"
        self.timeout = timeout
        self.tls = tls
        self.endpoints = tuple(endpoints)
        self.login = Login(user, password, former)
        self._transport = Transport(self.endpoints, tls, self.login)

    def close(self) -> None:
        """Close the connections; calls under way fail or finish."""
        self._transport.close()

    # ---- keys

    def get(self, key: str, *, timeout: float | None = None) -> KeyValue | None:
        """The key now (a linearizable read); None if it does not exist."""
        answer = self.call("/v3/kv/range", {"key": self._key(key)}, timeout)
        return next((self._kv(kv) for kv in answer.get("kvs", ())), None)

    def range(self, prefix_suffix: str = "", *, timeout: float | None = None) -> Snapshot:
        """All keys that start with the client's prefix and ``prefix_suffix``, in one linearizable read."""
        answer = self.call("/v3/kv/range", key_range(self.prefix + prefix_suffix), timeout)
        kvs = [self._kv(kv) for kv in answer.get("kvs", ())]
        return Snapshot(_revision(answer), {kv.key: kv for kv in kvs})

    def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Op],
        failure: Sequence[Op] = (),
        *,
        timeout: float | None = None,
    ) -> TxnResult:
        """If all ``compares`` hold do ``success``, else ``failure``; see TxnResult for lost answers."""
        body = {
            "compare": [self._compare(compare) for compare in compares],
            "success": [self._op(op) for op in success],
            "failure": [self._op(op) for op in failure],
        }
        answer = self._transport.call("/v3/kv/txn", body, self._seconds(timeout), won=_succeeded)
        won = _succeeded(answer.data)
        return TxnResult(won, _revision(answer.data), answer.doubtful and not won)

    def put(self, key: str, value: str, *, lease: int = 0, timeout: float | None = None) -> int:
        """Write without conditions; the revision. Only for what may also arrive late or twice."""
        return _revision(self.call("/v3/kv/put", self._op(Put(key, value, lease))["request_put"], timeout))

    def delete(self, key: str, *, timeout: float | None = None) -> bool:
        """Delete without conditions; False if the key was not there."""
        answer = self.call("/v3/kv/deleterange", {"key": self._key(key)}, timeout)
        return int(answer.get("deleted", 0)) > 0

    def compact(self, revision: int, *, timeout: float | None = None) -> None:
        """Forget the history before ``revision``; EtcdRefused if that has happened already."""
        self.call("/v3/kv/compaction", {"revision": str(revision)}, timeout)

    # ---- leases

    def lease_grant(self, ttl: int, *, timeout: float | None = None) -> int:
        """A new lease of ``ttl`` seconds; its id. (A lost answer may leave one more lease, which just
        expires.)
        """
        return int(self.call("/v3/lease/grant", {"TTL": str(ttl), "ID": "0"}, timeout)["ID"])

    def lease_keepalive(self, lease: int, *, timeout: float | None = None) -> int:
        """Begin the lease's life again; the seconds it has, 0 if it is gone."""
        return int(self.call("/v3/lease/keepalive", {"ID": str(lease)}, timeout).get("TTL", 0))

    def lease_revoke(self, lease: int, *, timeout: float | None = None) -> None:
        """End the lease and delete its keys; a lease that is gone already is fine."""
        try:
            self.call("/v3/lease/revoke", {"ID": str(lease)}, timeout)
        except EtcdRefused as error:
            if error.code != _NOT_FOUND:
                raise

    # ---- members

    def members(self, *, timeout: float | None = None) -> tuple[EtcdMember, ...]:
        """etcd's own list of members, sorted by name."""
        answer = self.call("/v3/cluster/member/list", {}, timeout)
        return decode_members(answer.get("members", ()))

    def status(self, endpoint: str, *, timeout: float | None = None) -> EtcdStatus:
        """What the member behind ``endpoint`` (one of the client's) says of itself; needs no quorum."""
        return _status(self._transport.ask_one(endpoint, "/v3/maintenance/status", {}, self._seconds(timeout)))

    def healthy_endpoints(self, deadline: float | None = None) -> tuple[Health, ...]:
        """Every endpoint asked at the same time for a linearizable read, each with ``deadline`` seconds.
        Never raises. "Permission denied" is an answer: etcd says so only after it has asked its quorum.
        """
        seconds = self._seconds(deadline)
        body = {"key": self._key("health"), "keys_only": True}
        attempts = self._transport.ask_all("/v3/kv/range", body, seconds)
        return tuple(
            Health(endpoint, "" if _answered(attempt) else _why(attempt.failure, seconds))
            for endpoint, attempt in attempts.items()
        )

    def move_leader(self, target_id_hex: str, *, timeout: float | None = None) -> None:
        """Hand etcd's own leadership to a member; nothing happens if it has it already.

        EtcdUnreachable if no endpoint leads; half of the time goes to finding the one that does.
        """
        share = self._seconds(timeout) / 2
        attempts = self._transport.ask_all("/v3/maintenance/status", {}, share)
        answered = {e: _status(a.answer) for e, a in attempts.items() if a.done and a.failure is None}
        leader = next((e for e, status in answered.items() if status.member_id == status.leader_id), None)
        if leader is None:
            reasons = {e: _why(a.failure, share) for e, a in attempts.items() if e not in answered}
            raise EtcdUnreachable("no endpoint of etcd says that it leads, so the leadership cannot be moved", reasons)
        if answered[leader].member_id != target_id_hex:
            body = {"targetID": str(int(target_id_hex, 16))}
            self._transport.ask_one(leader, "/v3/maintenance/transfer-leadership", body, share)

    def alarms(self, *, timeout: float | None = None) -> tuple[EtcdAlarm, ...]:
        """The alarms that are raised now; () is good."""
        answer = self.call("/v3/maintenance/alarm", {"action": "GET"}, timeout)
        return tuple(EtcdAlarm(_hex(a.get("memberID", 0)), a.get("alarm", "NONE")) for a in answer.get("alarms", ()))

    # ---- the user

    def logs_in(self, *, timeout: float | None = None) -> bool:
        """True if authentication is on and accepts this client's user, False if it is off; else NotAccepted."""
        try:
            self.call("/v3/auth/user/get", {"name": self.login.user}, timeout)
        except EtcdRefused as refusal:
            if refusal.code != _NO_SUCH_USER:
                raise
        return self.login.has_token

    # ---- the gateway's JSON

    def ask_one(
        self, endpoint: str, path: str, body: Mapping[str, Any], timeout: float | None = None
    ) -> dict[str, Any]:
        """The answer of the member behind ``endpoint`` to any question of the gateway."""
        return self._transport.ask_one(endpoint, path, body, self._seconds(timeout))

    def call(self, path: str, body: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """The answer of some member to any question of the gateway."""
        return self._transport.call(path, body, self._seconds(timeout)).data

    def _seconds(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def _key(self, key: str) -> str:
        return encode(self.prefix + key)

    def _kv(self, kv: Mapping[str, Any]) -> KeyValue:
        return decode_kv(kv, self.prefix)

    def _compare(self, compare: Compare) -> dict[str, str]:
        name = {"MOD": "mod_revision", "CREATE": "create_revision", "VALUE": "value"}[compare.target]
        expected = encode(compare.expected) if isinstance(compare.expected, str) else str(compare.expected)
        return {"key": self._key(compare.key), "target": compare.target, "result": "EQUAL", name: expected}

    def _op(self, op: Op) -> dict[str, Any]:
        if isinstance(op, Delete):
            return {"request_delete_range": {"key": self._key(op.key)}}
        return {"request_put": {"key": self._key(op.key), "value": encode(op.value), "lease": str(op.lease)}}


def encode(text: str) -> str:
    """Text as the gateway wants bytes."""
    return base64.b64encode(text.encode()).decode()


def key_range(prefix: str) -> dict[str, str]:
    """The two ends of the range of all keys that start with ``prefix`` (not empty)."""
    raw = prefix.encode()
    end = raw[:-1] + bytes([raw[-1] + 1])  # UTF-8 never contains 255, so this cannot overflow
    return {"key": base64.b64encode(raw).decode(), "range_end": base64.b64encode(end).decode()}


def decode_kv(kv: Mapping[str, Any], prefix: str) -> KeyValue:
    """A key from the gateway; values that are not UTF-8 come out with replacement characters."""
    return KeyValue(
        base64.b64decode(kv["key"]).decode("utf-8", "replace").removeprefix(prefix),
        base64.b64decode(kv.get("value", "")).decode("utf-8", "replace"),
        int(kv.get("create_revision", 0)),
        int(kv.get("mod_revision", 0)),
        int(kv.get("version", 0)),
        int(kv.get("lease", 0)),
    )


def decode_members(said: Iterable[Mapping[str, Any]]) -> tuple[EtcdMember, ...]:
    """etcd's list of members, sorted by name, from the gateway or from a member's peer port."""
    found = [
        EtcdMember(
            _hex(member.get("ID", member.get("id", 0))),
            member.get("name", ""),
            tuple(member.get("peerURLs", ())),
            tuple(member.get("clientURLs", ())),
            bool(member.get("isLearner", False)),
        )
        for member in said
    ]
    return tuple(sorted(found, key=lambda member: (member.name, member.id_hex)))


def _succeeded(answer: Mapping[str, Any]) -> bool:
    return bool(answer.get("succeeded", False))


def _revision(answer: Mapping[str, Any]) -> int:
    return int(answer.get("header", {}).get("revision", 0))


def _hex(number: str | int) -> str:
    return f"{int(number):x}"


def _status(answer: Mapping[str, Any]) -> EtcdStatus:
    leader = int(answer.get("leader", 0))
    return EtcdStatus(
        _hex(answer.get("header", {}).get("member_id", 0)),
        _hex(leader) if leader else "",
        answer.get("version", ""),
        int(answer.get("dbSize", 0)),
    )


def _answered(attempt: Attempt) -> bool:
    failure = attempt.failure
    denied = isinstance(failure, EtcdRefused) and failure.code == PERMISSION_DENIED
    return attempt.done and (failure is None or denied)


def _why(failure: Exception | None, seconds: float) -> str:
    if failure is None:
        return f"did not answer within {seconds:g} s"
    return str(failure) if isinstance(failure, (MemberFailed, EtcdError)) else repr(failure)
