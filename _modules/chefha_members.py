"""
Verbs about who is a member of a chefha cluster and who leads it: bootstrap, join_cluster, remove_node, promote, demote,
the switches of failover, force_leader. Salt merges them into module ``chefha``; they are thin over the library, as
those are.
"""

import importlib

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "chefha"


def __virtual__():
    return __virtualname__


def bootstrap(quorum_loss_recovery=False, etcd_wait_time=30, elasticsearch_wait_time=30):
    """
    Make this node the first one of a cluster, without waiting for the others. Refused where anybody knows a cluster.

    quorum_loss_recovery
        Two of three are lost: this node goes on alone with its data. Refused while etcd has a quorum, or another member
        answers.
    etcd_wait_time, elasticsearch_wait_time
        Seconds for etcd and for search.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.bootstrap quorum_loss_recovery=True
    """
    waits = _seconds("etcd_wait_time", etcd_wait_time), _seconds("elasticsearch_wait_time", elasticsearch_wait_time)
    words = _flag("quorum_loss_recovery", quorum_loss_recovery), *waits
    return __salt__["chefha.verb"]("bootstrap", lambda verbs, *node: verbs.bootstrap(*node, *words))


def create_cluster(**how):
    """
    The later name of ``bootstrap``.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.create_cluster
    """
    return bootstrap(**{name: value for name, value in how.items() if not name.startswith("__")})


def join_cluster(peer, publish_address="", vip_interface="", secrets_file="", recovery=False, timeout=5400):
    """
    Make this machine a peer of the cluster: secrets where Salt has none, its states, and the wait until it follows.

    peer
        Name or address of a member that runs.
    publish_address, vip_interface
        Which address of this machine is its own, and which interface gets the VIP.
    secrets_file
        Path on this machine of what ``chef-backend-ctl show-config --secrets FILE`` wrote on a peer.
    recovery
        Let in again who was removed, or who is left behind; what it holds and the leader does not is put aside.
    timeout
        Seconds until it follows, the states included.

    CLI Example:

    .. code-block:: bash

        salt be3 chefha.join_cluster be1
    """
    if not isinstance(peer, str) or not peer:
        raise SaltInvocationError(f"chefha.join_cluster: peer is {peer!r}; expected the name or address of a member")
    words = [str(publish_address), str(vip_interface), str(secrets_file), _flag("recovery", recovery)]
    words.append(_seconds("timeout", timeout, 86400))
    try:
        joining = importlib.import_module("chefha_core.verbs.join_cluster")
    except ImportError as error:
        raise CommandExecutionError(f"the chefha library is not in Salt's Python on this minion: {error}") from error
    try:
        return joining.join_cluster(joining.Wish(peer, *words))
    except importlib.import_module("chefha_core.verbs.reach").VerbError as error:
        raise CommandExecutionError(str(error)) from error


def remove_node(node, timeout=30):
    """
    Take a member that is off for good out of the cluster: its status, its member of etcd, its replication slot, its
    vote in search. Refused for this node, and for one that is still running.

    node
        The member's name or address.
    timeout
        Seconds until the leader has dropped its slot.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.remove_node be3
    """
    if not isinstance(node, str) or not node:
        raise SaltInvocationError(f"chefha.remove_node: node is {node!r}; expected the name or address of a member")
    words = node, _seconds("timeout", timeout)
    return __salt__["chefha.verb"]("remove_node", lambda verbs, *here: verbs.remove_node(*here, *words))


def promote(node, timeout=30):
    """
    Make a member the leader by a planned hand-over that loses nothing. Refused if the member is unknown, is the leader
    already, does not follow or is too far behind, or if failover is off; then nothing has changed.

    node
        The member's name or address.
    timeout
        Seconds it may take; afterwards the old leader goes on.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.promote be2
    """
    if not isinstance(node, str) or not node:
        raise SaltInvocationError(f"chefha.promote: node is {node!r}; expected the name or address of a member")
    words = node, _seconds("timeout", timeout)
    return __salt__["chefha.verb"]("handover", lambda verbs, *here: verbs.promote(*here, *words))


def demote(timeout=30):
    """
    This node, the leader, hands over to whichever other member is eligible. Ends when that one leads.

    timeout
        Seconds it may take; afterwards this node goes on leading.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.demote
    """
    limit = _seconds("timeout", timeout)
    return __salt__["chefha.verb"]("handover", lambda verbs, *node: verbs.demote(*node, limit))


def set_cluster_failover(state):
    """
    Automatic failover on or off for the whole cluster. While it is off nobody is elected, promote and demote are
    refused, and a leader goes on leading.

    state
        on, true, enabled, off, false or disabled.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.set_cluster_failover off
    """
    return __salt__["chefha.verb"]("switches", lambda verbs, *node: verbs.set_cluster_failover(*node, state))


def set_node_failover(state):
    """
    Automatic failover on or off for this node alone: while it is off the node is never elected; if it leads it goes on
    leading.

    state
        on, true, enabled, off, false or disabled.

    CLI Example:

    .. code-block:: bash

        salt be2 chefha.set_node_failover off
    """
    return __salt__["chefha.verb"]("switches", lambda verbs, *node: verbs.set_node_failover(*node, state))


def force_leader(accept_data_loss=False, timeout=60):
    """
    Make this node the leader where there is none. Refused if there is one, or if another member has newer data.

    accept_data_loss
        Also if another member has newer data, or this node's log does not count.
    timeout
        Seconds it may take.

    CLI Example:

    .. code-block:: bash

        salt be2 chefha.force_leader
    """
    how = _flag("accept_data_loss", accept_data_loss), _seconds("timeout", timeout)
    before = __salt__["chefha.cluster_status"]()
    done = __salt__["chefha.verb"]("force_leader", lambda verbs, *node: verbs.force_leader(*node, *how))
    return {**done, "before": before}


def _seconds(name, value, most=3600):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise SaltInvocationError(f"{name} is {value!r}; expected seconds, more than 0 and at most {most}")
    return float(value)


def _flag(name, value):
    if not isinstance(value, bool):
        raise SaltInvocationError(f"{name} is {value!r}; expected True or False")
    return value
