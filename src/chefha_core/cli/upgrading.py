"""upgrade: this member becomes what the pillar and the master's files say now."""

from __future__ import annotations

import argparse

from chefha_core.cli.terms import Parsers, node, show, show_step, takes_json, takes_timeout


def add(parsers: Parsers) -> None:
    """Declare the verbs of this group."""
    made = parsers.verb("upgrade", _upgrade, "apply the states of a new version to this node; followers first")
    made.add_argument("--failover", action="store_true", help="if this node leads, hand over first")
    made.add_argument("--packages", action="store_true", help="renew PostgreSQL's and etcd's packages, too")
    made.add_argument("--check", action="store_true", help="only say whether it could begin")
    takes_timeout(made, 900.0)
    takes_json(made)


def _upgrade(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import upgrade

    if wanted.check:
        found = upgrade.check(*node())
        show(found, f"the cluster is well; {found['leader']} leads", wanted.json)
        return
    data = upgrade.upgrade(*node(), wanted.failover, wanted.packages, wanted.timeout, show_step)
    changed = ", ".join(data["changed"])
    show(data, f"{data['node']} is upgraded: {changed}" if changed else f"{data['node']}: nothing changed", wanted.json)
