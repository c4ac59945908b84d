"""
Verbs about archives, as part of the module ``chefha``.
"""

from salt.exceptions import SaltInvocationError


def __virtual__():
    return "chefha"


def backup(force=False, timeout=14400, compression="", max_rate=0, incremental=""):
    """
    An archive of this node's data (configuration, PostgreSQL with its log), compressed, verified, in the folder or
    bucket of pillar ``chefha:backup``. Refused on the leader without ``force``, and where there is not enough room;
    an archive that does not verify is removed. Use ``salt -t`` with a time that suffices, or ``--async``.

    force
        On the leader too.
    timeout
        Seconds it may take; afterwards nothing is left of it.
    compression
        ``zstd`` or ``gzip``; empty: as the pillar has it.
    max_rate
        MB/s that are read at most; 0: no limit.
    incremental
        Name of an archive, or ``newest``: only what changed since then (PostgreSQL 17).

    CLI Example:

    .. code-block:: bash

        salt -t 3600 be2 chefha.backup
    """
    if not isinstance(force, bool):
        raise SaltInvocationError(f"force is {force!r}; expected True or False")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 604800:
        raise SaltInvocationError(f"timeout is {timeout!r}; expected seconds, more than 0 and at most 604800")
    if isinstance(max_rate, bool) or not isinstance(max_rate, int) or max_rate < 0:
        raise SaltInvocationError(f"max_rate is {max_rate!r}; expected whole MB/s, 0 for no limit")
    if compression not in ("", "zstd", "gzip"):
        raise SaltInvocationError(f"compression is {compression!r}; expected zstd or gzip")
    words = (force, float(timeout), compression, max_rate, str(incremental))
    return __salt__["chefha.verb"]("backup", lambda verbs, *node: verbs.backup(*node, *words))


def restore(path, staging_dir="", target_time="", foreign=False, timeout=14400):
    """
    On the leader: replace all data of the cluster by an archive's. It is verified, replayed and promoted beside the
    present data first, which is kept until every other member has cloned the restored one. Without a question: whoever
    calls it means it. Use ``salt -t`` with a time that suffices, or ``--async``; it goes on if nobody waits.

    path
        The archive: a file on that minion, or its name in the store of pillar ``chefha:backup``.
    staging_dir
        Where it is extracted, on the file system of the data directory; empty: beside that.
    target_time
        ISO 8601, UTC where it names no zone: replay archived log up to then.
    foreign
        Also an archive of another cluster, whose data then replaces this cluster's.
    timeout
        Seconds it may take.

    CLI Example:

    .. code-block:: bash

        salt -t 3600 be1 chefha.restore /var/opt/chef-backup/chef-backup-2026-11-25-04-00-00.tar.zst
    """
    if not isinstance(foreign, bool):
        raise SaltInvocationError(f"foreign is {foreign!r}; expected True or False")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 604800:
        raise SaltInvocationError(f"timeout is {timeout!r}; expected seconds, more than 0 and at most 604800")
    words = (str(path), str(staging_dir), float(timeout), str(target_time), foreign)
    return __salt__["chefha.verb"]("restore", lambda verbs, *node: verbs.restore(*node, *words))
