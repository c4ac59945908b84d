"""The program ``leaderl``: one on each back end, a systemd service of its own."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

from chefha_core.checked import SettingsError
from chefha_core.leaderl.doors import Doors
from chefha_core.leaderl.http import serve
from chefha_core.leaderl.loop import Leaderl
from chefha_core.node import own_name
from chefha_core.parts.postgres import Postgres, SystemdUnit
from chefha_core.parts.tls import server_context
from chefha_core.settings import SETTINGS_FILE, load


def main() -> int:
    """Run until killed; 2 with one sentence if the settings are wrong."""
    parser = argparse.ArgumentParser(description="elects the leader of a chefha cluster and acts on it")
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE, help="JSON file that the states wrote")
    parser.add_argument(
        "--name", default="", help="this member's name; by default the one whose address is on this machine"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(threadName)s %(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        settings = load(arguments.settings)
        name = arguments.name or own_name(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    leaderl = Leaderl(settings, name, Postgres(settings, name, SystemdUnit("chefha-postgresql.service")))
    try:
        tls = server_context(settings) if settings.tls.enabled else None
        at = (settings.leaderl.http_address, settings.leaderl.http_port)
        serve(leaderl, *at, doors=Doors.of(settings), tls=tls)
    except OSError as error:
        where = f"{settings.leaderl.http_address}:{settings.leaderl.http_port}"
        print(f"leaderl cannot listen on {where} (pillar chefha:leaderl): {error}", file=sys.stderr)
        return 2
    _ready()
    leaderl.run()
    return 0


def _ready() -> None:
    """Tell systemd that the service is up, if it asked."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + path[1:] if path.startswith("@") else path)
            notify.sendall(b"READY=1")


if __name__ == "__main__":
    sys.exit(main())
