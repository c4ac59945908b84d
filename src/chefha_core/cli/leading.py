"""promote, demote, converge, and the switches of failover: verbs about who leads."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from chefha_core.cli.terms import Parsers, node, show, show_step, takes_json, takes_timeout


def add(parsers: Parsers) -> None:
    """Declare the verbs of this group."""
    made = parsers.verb("promote", _promote, "make NODE the leader by a planned hand-over that loses nothing")
    made.add_argument("node", metavar="NODE", help="name or address")
    takes_timeout(made)
    takes_json(made)
    made = parsers.verb("demote", _demote, "this node, the leader, hands over to another")
    takes_timeout(made)
    takes_json(made)
    for name, run, whose in (
        ("set-cluster-failover", _set_cluster_failover, "for the cluster"),
        ("set-node-failover", _set_node_failover, "for this node"),
    ):
        made = parsers.verb(name, run, f"automatic failover on or off {whose}")
        made.add_argument("state", metavar="STATE", help="on, true, enabled, off, false or disabled")
        takes_json(made)
    made = parsers.verb("converge", _converge, "bring this node to the role that etcd gives it")
    made.add_argument("--epoch", type=int, default=0, help="only if this epoch is not over; 0: the present one")
    takes_timeout(made)
    takes_json(made)


def _promote(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import handover

    _handed_over(wanted, handover.promote(*node(), wanted.node, wanted.timeout, show_step))


def _demote(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import handover

    _handed_over(wanted, handover.demote(*node(), wanted.timeout, show_step))


def _handed_over(wanted: argparse.Namespace, done: Mapping[str, Any]) -> None:
    text = f"{done['leader']} leads epoch {done['epoch']}, {done['seconds']} s after it was asked for"
    show(done, text, wanted.json)


def _set_cluster_failover(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import switches

    data = switches.set_cluster_failover(*node(), wanted.state)
    show(data, f"failover is {'on' if data['failover'] else 'off'} for the cluster", wanted.json)


def _set_node_failover(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import switches

    data = switches.set_node_failover(*node(), wanted.state)
    show(data, f"failover is {'on' if data['failover'] else 'off'} for {data['node']}", wanted.json)


def _converge(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import member

    done = member.converge(wanted.epoch, wanted.timeout)
    for step in done.get("steps", []):
        show_step(step)
    show(done, f"this node is {done['role']} in epoch {done['epoch']}: {done['reason']}", wanted.json)
