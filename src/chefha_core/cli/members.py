"""bootstrap, join-cluster, remove-node, force-leader: verbs about who is a member, and where nobody leads."""

from __future__ import annotations

import argparse

from chefha_core.cli.terms import Parsers, confirm, node, show, show_step, takes_json, takes_timeout, takes_yes


def add(parsers: Parsers) -> None:
    """Declare the verbs of this group."""
    made = parsers.verb("bootstrap", _bootstrap, "make the first node of a cluster", aliases=("create-cluster",))
    made.add_argument("--quorum-loss-recovery", action="store_true", help="two of three are lost: go on with this one")
    made.add_argument("--etcd-wait-time", type=float, default=30.0, metavar="S", help="seconds for etcd (30)")
    made.add_argument("--elasticsearch-wait-time", type=float, default=30.0, metavar="S", help="for search (30)")
    takes_yes(made)
    takes_json(made)
    made = parsers.verb("join-cluster", _join_cluster, "make this node a peer of the cluster that PEER_IP is in")
    made.add_argument("peer", metavar="PEER_IP", help="a member that runs")
    made.add_argument("-p", "--publish-address", default="", metavar="IP", help="which address of this node is its own")
    made.add_argument("-i", "--vip-interface", default="", metavar="IF", help="interface that gets the VIP here")
    made.add_argument("-s", "--secrets-file-path", default="", metavar="PATH", help="secrets, where Salt has none")
    made.add_argument("--recovery", action="store_true", help="let in again who was removed or left behind")
    takes_yes(made)
    takes_timeout(made, 5400.0)
    takes_json(made)
    made = parsers.verb("remove-node", _remove_node, "take a member that is off for good out of the cluster")
    made.add_argument("node", metavar="NODE", help="name or address")
    takes_yes(made)
    takes_timeout(made)
    takes_json(made)
    made = parsers.verb("force-leader", _force_leader, "make this node the leader where there is none")
    made.add_argument("--accept-data-loss", action="store_true", help="also where another member's data are newer")
    takes_yes(made)
    takes_timeout(made, 60.0)
    takes_json(made)


def _bootstrap(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import bootstrap

    settings, name = node()
    confirm(wanted, bootstrap.question(settings, name, wanted.quorum_loss_recovery))
    waits = wanted.etcd_wait_time, wanted.elasticsearch_wait_time
    done = bootstrap.bootstrap(settings, name, wanted.quorum_loss_recovery, *waits, show_step)
    show(done, f"{done['leader']} leads epoch {done['epoch']}, alone until another node has joined it", wanted.json)


def _join_cluster(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import join_cluster

    own = wanted.publish_address, wanted.vip_interface, wanted.secrets_file_path
    wish = join_cluster.Wish(wanted.peer, *own, wanted.recovery, wanted.timeout)
    if wanted.recovery:
        confirm(wanted, "what this node holds and the leader does not is put aside")
    done = join_cluster.join_cluster(wish, show_step)
    show(done, f"{done['node']} is {done['role']}, after {done['seconds']} s", wanted.json)


def _remove_node(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import remove_node

    confirm(wanted, f"{wanted.node} is taken out of the cluster; what it alone holds is lost to it")
    done = remove_node.remove_node(*node(), wanted.node, wanted.timeout, show_step)
    text = f"{done['removed']} is removed; a machine of that name joins by its states, or by join-cluster"
    show(done, text, wanted.json)


def _force_leader(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import cluster_status, force_leader

    settings, name = node()
    before = cluster_status.cluster_status(settings, name)
    if not wanted.json:
        print(cluster_status.table(before))
    confirm(wanted, f"{name} becomes the leader without an election")
    done = force_leader.force_leader(settings, name, wanted.accept_data_loss, wanted.timeout, show_step)
    text = f"{name} leads epoch {done['epoch']}, {done['seconds']} s after it was asked for"
    show({**done, "before": before}, text, wanted.json)
