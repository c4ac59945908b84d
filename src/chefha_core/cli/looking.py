"""cluster-status, status, version, show-config: verbs that change nothing."""

from __future__ import annotations

import argparse
import sys

from chefha_core.checked import SettingsError
from chefha_core.cli.terms import Parsers, node, show, takes_json
from chefha_core.settings import Settings, load


def add(parsers: Parsers) -> None:
    """Declare the verbs of this group."""
    made = parsers.verb("cluster-status", _cluster_status, "one row per member")
    made.add_argument("--wide", action="store_true", help="also whom each follows, bytes behind, who may take over")
    takes_json(made)
    made = parsers.verb("status", _status, "the services of this node")
    made.add_argument("service", nargs="?", default="", metavar="SERVICE", help="only this one")
    made.add_argument("--simple", action="store_true", help="ask nobody else")
    takes_json(made)
    takes_json(parsers.verb("version", _version, "what is installed here"))
    made = parsers.verb("show-config", _show_config, "every setting with its value, secrets masked")
    made.add_argument("--secrets", default="", metavar="FILE", help="write the secrets there, for a node that joins")
    takes_json(made)


def _cluster_status(wanted: argparse.Namespace) -> int:
    """1, after the answer, on a node that is in no cluster any more."""
    from chefha_core.verbs import cluster_status

    settings, name = node()
    data = cluster_status.cluster_status(settings, name)
    show(data, cluster_status.table(data, wanted.wide), wanted.json)
    for asked, problem in data["problems"].items():
        print(f"{asked}: {problem}", file=sys.stderr)
    if name not in data.get("removed", ()):
        return 0
    why = f"this node is in no cluster any more: {name} was removed from {settings.cluster}"
    print(f"chef-backend-ctl: {why}; let it in again with: join-cluster PEER_IP --recovery", file=sys.stderr)
    return 1


def _status(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import status

    data = status.status(*node(), simple=wanted.simple, service=wanted.service)
    show(data, status.simple_lines(data) if wanted.simple else status.table(data), wanted.json)


def _version(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import version

    try:
        settings: Settings | None = load()
    except SettingsError:
        settings = None
    data = version.version(settings)
    show(data, "\n".join(f"{key}: {value}" for key, value in data.items()), wanted.json)


def _show_config(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import config

    if wanted.secrets:
        from chefha_core.verbs.join_cluster import write_secrets

        path = write_secrets(load(), wanted.secrets)
        show({"file": path}, f"secrets and certificates written to {path}; delete it when they are used", wanted.json)
        return
    data = config.shown(load())
    show(data, config.to_yaml({"chefha": data}).rstrip("\n"), wanted.json)
