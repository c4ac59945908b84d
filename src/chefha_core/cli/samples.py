"""gen-server-config, gen-sample-backend-config, gen-secrets: verbs that print what others read."""

from __future__ import annotations

import argparse

from chefha_core.cli.terms import Parsers, show, takes_json
from chefha_core.settings import load


def add(parsers: Parsers) -> None:
    """Declare the verbs of this group."""
    from chefha_core.verbs.schema import FORMATS

    made = parsers.verb("gen-server-config", _gen_server_config, "print chef-server.rb of one front end, with password")
    made.add_argument("fqdn", nargs="?", default="", metavar="FQDN", help="host name of the front end")
    made.add_argument("-f", "--file", default="", metavar="FILE", help="write it there, readable by its owner only")
    takes_json(made)
    made = parsers.verb("gen-sample-backend-config", _gen_sample, "print every setting with its default and meaning")
    made.add_argument("--format", choices=FORMATS, default="pillar", help="YAML for the pillar, or the old form")
    takes_json(made)
    made = parsers.verb("gen-secrets", _gen_secrets, "print a pillar with fresh secrets and certificates")
    made.add_argument("members", nargs="+", type=_member, metavar="NAME=ADDRESS", help="the three back ends")
    made.add_argument("--vip", required=True, help="the address that follows the leader")
    made.add_argument("--vip-interface", default="eth0", help="its network interface (eth0)")
    made.add_argument("--cluster", default="chefha", help="name of the cluster (chefha)")
    takes_json(made)


def _member(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=ADDRESS")
    return name, address


def _gen_server_config(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs.gen_server_config import gen_server_config

    text = gen_server_config(load(), wanted.fqdn, wanted.file)
    if wanted.file:
        show({"file": text}, f"written to {text}", wanted.json)
    else:
        show({"chef_server_rb": text}, text.rstrip("\n"), wanted.json)


def _gen_sample(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import schema

    text = schema.gen_sample_backend_config(wanted.format)
    data = schema.sample() if wanted.format == "pillar" else {"chef_backend_rb": text}
    show(data, text.rstrip("\n"), wanted.json)


def _gen_secrets(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import config

    more = {"cluster": wanted.cluster, "vip_interface": wanted.vip_interface}
    pillar = config.fresh_pillar(dict(wanted.members), wanted.vip, more)
    show(pillar, config.to_yaml(pillar).rstrip("\n"), wanted.json)
