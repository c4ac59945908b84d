"""What goes into etcd's client and comes out of it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class KeyValue:
    """One key as etcd has it; ``key`` without the prefix, ``lease`` 0 if it lives on none."""

    key: str
    value: str
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True)
class Snapshot:
    """All keys asked for, as they were together at ``revision``."""

    revision: int
    kvs: Mapping[str, KeyValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Compare:
    """A condition of a transaction; made by its class methods."""

    key: str
    target: str
    expected: int | str

    @classmethod
    def mod_revision(cls, key: str, revision: int) -> Compare:
        """``key`` was last changed at exactly ``revision``; 0: it does not exist."""
        return cls(key, "MOD", revision)

    @classmethod
    def create_revision(cls, key: str, revision: int) -> Compare:
        """``key`` was created at exactly ``revision`` (whatever happened to its value since)."""
        return cls(key, "CREATE", revision)

    @classmethod
    def absent(cls, key: str) -> Compare:
        """``key`` does not exist."""
        return cls(key, "CREATE", 0)

    @classmethod
    def value(cls, key: str, value: str) -> Compare:
        """``key`` has exactly this value."""
        return cls(key, "VALUE", value)


@dataclass(frozen=True)
class Put:
    """Write ``value`` to ``key``, on a lease if one is given."""

    key: str
    value: str
    lease: int = 0


@dataclass(frozen=True)
class Delete:
    """Delete ``key``; deleting what is not there succeeds."""

    key: str


Op = Put | Delete


@dataclass(frozen=True)
class TxnResult:
    """``succeeded``: the compares held. ``revision``: etcd's revision after the transaction.

    ``doubtful`` matters only where ``succeeded`` is False: an earlier attempt of the same call may have been
    applied, its answer was lost, and the compares may have failed because of it. Read the keys to know.
    """

    succeeded: bool
    revision: int
    doubtful: bool = False


@dataclass(frozen=True)
class EtcdMember:
    """One member in etcd's own list; ``name`` is empty until it has started once."""

    id_hex: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    learner: bool = False


@dataclass(frozen=True)
class EtcdStatus:
    """What one member says of itself; ``leader_id`` is "" without a leader, ``db_size`` in bytes."""

    member_id: str
    leader_id: str
    version: str
    db_size: int


@dataclass(frozen=True)
class Health:
    """Whether one endpoint answered a linearizable read, else ``problem`` says why not."""

    endpoint: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        """True if it answered."""
        return not self.problem


@dataclass(frozen=True)
class EtcdAlarm:
    """An alarm that is raised, such as NOSPACE or CORRUPT."""

    member_id: str
    kind: str
