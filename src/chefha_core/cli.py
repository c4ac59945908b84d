"""The shell command ``chef-backend-ctl``: the verbs on this node. Errors are one sentence on stderr and exit code 1."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chefha_core.checked import SettingsError
from chefha_core.node import own_name
from chefha_core.settings import Settings, load
from chefha_core.verbs import cluster_status, config, handover, member, schema, status, switches, version
from chefha_core.verbs.gen_server_config import gen_server_config
from chefha_core.verbs.reach import VerbError


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one verb; the exit code."""
    wanted = _parser().parse_args(arguments)
    try:
        wanted.run(wanted)
    except (VerbError, SettingsError) as error:
        print(f"chef-backend-ctl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chef-backend-ctl", description="operates one node of a chefha cluster")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help, description=help)
        made.set_defaults(run=run)
        return made

    def as_json(made: argparse.ArgumentParser) -> None:
        made.add_argument("--json", action="store_true", help="print JSON, with more in it")

    as_json(verb("cluster-status", _cluster_status, "one row per member"))
    made = verb("status", _status, "the services of this node")
    made.add_argument("service", nargs="?", default="", help="only this one")
    made.add_argument("--simple", action="store_true", help="ask nobody else")
    as_json(made)
    made = verb("promote", _promote, "make NODE the leader by a planned hand-over that loses nothing")
    made.add_argument("node", metavar="NODE", help="name or address")
    _waits(made)
    _waits(verb("demote", _demote, "this node, the leader, hands over to another"))
    for name, run, whose in (
        ("set-cluster-failover", _set_cluster_failover, "for the cluster"),
        ("set-node-failover", _set_node_failover, "for this node"),
    ):
        made = verb(name, run, f"automatic failover on or off {whose}")
        made.add_argument("state", metavar="STATE", help=", ".join(switches.WORDS))
        as_json(made)
    made = verb("converge", _converge, "bring this node to the role that etcd gives it")
    made.add_argument("--epoch", type=int, default=0, help="only if this epoch is not over; 0: the present one")
    _waits(made)
    as_json(verb("version", _version, "what is installed here"))
    as_json(verb("show-config", _show_config, "every setting with its value, secrets masked"))
    made = verb("gen-server-config", _gen_server_config, "print chef-server.rb of one front end, password included")
    made.add_argument("fqdn", nargs="?", default="", metavar="FQDN", help="host name of the front end")
    made.add_argument("-f", "--file", default="", metavar="FILE", help="write it there, readable by its owner only")
    made = verb("gen-sample-backend-config", _gen_sample, "print every setting with its default and its meaning")
    made.add_argument("--format", choices=schema.FORMATS, default="pillar", help="YAML for the pillar, or the old form")
    _gen_secrets_arguments(verb("gen-secrets", _gen_secrets, "print a pillar with fresh secrets and certificates"))
    return parser


def _waits(made: argparse.ArgumentParser) -> None:
    made.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds it may take (30)")


def _gen_secrets_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("members", nargs="+", type=_member, metavar="NAME=ADDRESS", help="the three back ends")
    made.add_argument("--vip", required=True, help="the address that follows the leader")
    made.add_argument("--vip-interface", default="eth0", help="its network interface (eth0)")
    made.add_argument("--cluster", default="chefha", help="name of the cluster (chefha)")


def _member(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=ADDRESS")
    return name, address


def _node() -> tuple[Settings, str]:
    settings = load()
    return settings, own_name(settings)


def _print(data: Mapping[str, Any], text: str, as_json: bool) -> None:
    print(json.dumps(data, indent=2) if as_json else text)


def _lines(data: Mapping[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in data.items())


def _cluster_status(wanted: argparse.Namespace) -> None:
    data = cluster_status.cluster_status(*_node())
    _print(data, cluster_status.table(data), wanted.json)
    for asked, problem in data["problems"].items():
        print(f"{asked}: {problem}", file=sys.stderr)


def _status(wanted: argparse.Namespace) -> None:
    data = status.status(*_node(), simple=wanted.simple, service=wanted.service)
    _print(data, status.simple_lines(data) if wanted.simple else status.table(data), wanted.json)


def _promote(wanted: argparse.Namespace) -> None:
    _handed_over(handover.promote(*_node(), wanted.node, wanted.timeout, _show_step))


def _demote(wanted: argparse.Namespace) -> None:
    _handed_over(handover.demote(*_node(), wanted.timeout, _show_step))


def _set_cluster_failover(wanted: argparse.Namespace) -> None:
    data = switches.set_cluster_failover(*_node(), wanted.state)
    _print(data, f"failover is {'on' if data['failover'] else 'off'} for the cluster", wanted.json)


def _set_node_failover(wanted: argparse.Namespace) -> None:
    data = switches.set_node_failover(*_node(), wanted.state)
    _print(data, f"failover is {'on' if data['failover'] else 'off'} for {data['node']}", wanted.json)


def _handed_over(done: Mapping[str, Any]) -> None:
    print(f"{done['leader']} leads epoch {done['epoch']}, {done['seconds']} s after it was asked for")


def _show_step(step: Mapping[str, Any]) -> None:
    print(f"{step['seconds']:8.3f} s  {step['outcome']:11}  {step['step']}", flush=True)


def _converge(wanted: argparse.Namespace) -> None:
    done = member.converge(wanted.epoch, wanted.timeout)
    for step in done.get("steps", []):
        _show_step(step)
    print(f"this node is {done['role']} in epoch {done['epoch']}: {done['reason']}")


def _version(wanted: argparse.Namespace) -> None:
    try:
        settings: Settings | None = load()
    except SettingsError:
        settings = None
    data = version.version(settings)
    _print(data, _lines(data), wanted.json)


def _show_config(wanted: argparse.Namespace) -> None:
    data = config.shown(load())
    _print(data, config.to_yaml({"chefha": data}).rstrip("\n"), wanted.json)


def _gen_server_config(wanted: argparse.Namespace) -> None:
    text = gen_server_config(load(), wanted.fqdn, wanted.file)
    print(f"written to {text}" if wanted.file else text.rstrip("\n"))


def _gen_sample(wanted: argparse.Namespace) -> None:
    print(schema.gen_sample_backend_config(wanted.format), end="")


def _gen_secrets(wanted: argparse.Namespace) -> None:
    more = {"cluster": wanted.cluster, "vip_interface": wanted.vip_interface}
    print(config.to_yaml(config.fresh_pillar(dict(wanted.members), wanted.vip, more)), end="")


if __name__ == "__main__":
    sys.exit(main())
