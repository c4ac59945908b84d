"""Services of this node, its logs, reconfigure, cleanse and uninstall: verbs about the node itself."""

from __future__ import annotations

import argparse
import json
import sys

from chefha_core.cli.terms import Parsers, Run, confirm, node, show, show_step, takes_json, takes_timeout, takes_yes

#: verb -> what it does; the table in docs/services.md says more
SERVICE_VERBS = {
    "start": "start a service, or all",
    "stop": "stop a service, or all but salt-minion; refused where that would cost the leadership",
    "restart": "restart a service, or all but salt-minion",
    "once": "start it, and do not start it again when it ends, until the next start",
    "hup": "PostgreSQL reads its configuration anew",
    "term": "SIGTERM to the main process",
    "kill": "SIGKILL to the main process",
}


def add(parsers: Parsers) -> None:
    """Declare the verbs of this group."""
    for name, help in SERVICE_VERBS.items():
        made = _about_a_service(parsers, name, _control, help)
        takes_timeout(made, 120.0)
        takes_json(made)
    made = _about_a_service(parsers, "tail", _tail, "show the logs as they grow, until Ctrl-C")
    made.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="so many old lines first (20)")
    made.add_argument("--json", action="store_true", help="print only these, as JSON")
    takes_json(parsers.verb("service-list", _service_list, "the services of this node, and which start at boot"))
    made = parsers.verb("gather-logs", _gather_logs, "logs, status and configuration without secrets as one archive")
    made.add_argument("-d", "--directory", default="/root", metavar="DIR", help="where it is written (/root)")
    takes_json(made)
    made = parsers.verb("reconfigure", _reconfigure, "apply the states of this node")
    takes_timeout(made, 1800.0)
    takes_json(made)
    made = parsers.verb("cleanse", _cleanse, "back to the state before the first configuration; deletes the data")
    takes_yes(made)
    takes_json(made)
    made = parsers.verb("uninstall", _uninstall, "stop everything and remove the units; data and configuration stay")
    takes_yes(made)
    takes_json(made)


def _about_a_service(parsers: Parsers, name: str, run: Run, help: str) -> argparse.ArgumentParser:
    made = parsers.verb(name, run, help)
    made.add_argument("service", nargs="?", default="", metavar="SERVICE", help="only this one")
    return made


def _control(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import services, status

    data = services.control(*node(), wanted.verb, wanted.service, wanted.timeout, on_step=show_step)
    show(data, status.simple_lines(data), wanted.json)


def _tail(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import services

    if wanted.json:
        print(json.dumps(services.tail(*node(), wanted.service, wanted.lines), indent=2))
    else:
        services.follow(*node(), wanted.service, wanted.lines)


def _service_list(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import services
    from chefha_core.verbs.cluster_status import columns

    data = services.service_list(*node())
    rows = [[name, row["unit"], row["enabled"], row["state"]] for name, row in data["services"].items()]
    show(data, columns([["Service", "Unit", "At boot", "Now"], *rows]), wanted.json)


def _gather_logs(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import care_logs

    data = care_logs.gather_logs(*node(), wanted.directory, show_step)
    for part, why in data["missing"].items():
        print(f"missing: {part}: {why}", file=sys.stderr)
    show(data, f"{data['path']} ({data['bytes'] / 1e6:.1f} MB)", wanted.json)


def _reconfigure(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import care_reconfigure

    data = care_reconfigure.reconfigure(show_step, wanted.timeout)
    show(data, care_reconfigure.text(data), wanted.json)


def _cleanse(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import care
    from chefha_core.verbs.reach import VerbError

    settings, name = node()
    if refused := care.membership_problem(settings, name):
        raise VerbError(refused)
    confirm(wanted, care.what_cleanse_does(settings, name))
    data = care.cleanse(settings, name, show_step)
    show(data, f"the configuration is in {data['saved']}; a highstate makes this node a member again", wanted.json)


def _uninstall(wanted: argparse.Namespace) -> None:
    from chefha_core.verbs import care

    confirm(wanted, care.UNINSTALL_DOES)
    data = care.uninstall(*node(), show_step)
    show(data, "stopped, and removed from systemd; a highstate brings it all back", wanted.json)
