"""Which archives stay: the newest ones of a cluster, with all that they need, and everything of other clusters."""

from __future__ import annotations

from chefha_core.backup import wal
from chefha_core.backup.archive import About
from chefha_core.backup.chain import about_of, chain
from chefha_core.backup.errors import ArchiveError
from chefha_core.backup.stores import Store
from chefha_core.model import parse_lsn


def retire(store: Store, cluster: str, keep: int, made: str) -> str:
    """Delete the cluster's archives but the newest ``keep`` (0: none is deleted) and the one just ``made``, which may
    have begun before another node's; and the log that only they needed.

    Why that could not be done, "" if it was. One that cannot be read may be what another one builds upon: then nothing
    is deleted.
    """
    if not keep:
        return ""
    try:
        found = _all(store)
        own = [name for name, about in found.items() if about.cluster == cluster]
        kept = {name for needed in (*own[-keep:], made) for name in chain(store, needed)}
        for name in sorted(set(own) - kept):
            store.remove(name)
        oldest = found[min(kept)]
        wal.retire(store, oldest.system_identifier, parse_lsn(oldest.start_lsn))
    except ArchiveError as error:
        return f"older archives stay as long as this lasts: {error}"
    return ""


def _all(store: Store) -> dict[str, About]:
    """Every archive with what it says of itself, oldest first."""
    return {stored.name: about_of(store, stored.name) for stored in store.archives()}
