"""The leaderl service on a member."""

from __future__ import annotations

import sys
from pathlib import Path

from chefha_core.cli import completion
from chefha_core.layout.wish import Wish, folder, running, text_file, unit_file
from chefha_core.settings import Settings

UNIT = "chefha-leaderl.service"
CTL = "/usr/local/bin/chef-backend-ctl"
COMPLETIONS = "/usr/share/bash-completion/completions"
# KillMode=process: what leaderl started goes on when it is restarted; a restart must not cost the leadership.
UNIT_TEXT = """\
[Unit]
Description=leaderl, keeper of the chefha leader key
After=network-online.target chefha-etcd.service
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
Restart=always
RestartSec=0.2
KillMode=process
TimeoutStopSec=5
RuntimeDirectory=chefha
RuntimeDirectoryPreserve=yes
OOMScoreAdjust=-1000
CPUWeight=1000
IOWeight=1000
Nice=-15
LimitNOFILE=8192

[Install]
WantedBy=multi-user.target
"""


def leaderl(settings: Settings, name: str) -> list[Wish]:
    """leaderl, running and enabled. Last: Salt lets what it watches restart it only where nothing else changed here."""
    return [*command(settings), unit_file(UNIT, unit_text(name)), running(UNIT)]


def ctl_text(python: str = sys.executable) -> str:
    """chef-backend-ctl on everybody's path. No link: Salt's pip puts programs in more than one place."""
    # -I: root's command takes no module from the folder it is called in, nor from PYTHONPATH
    return f'#!/bin/sh\nexec {Path(python)} -I -m chefha_core.cli "$@"\n'


def command(settings: Settings) -> list[Wish]:
    """chef-backend-ctl and its completion."""
    return [
        text_file(CTL, ctl_text(), mode="0755"),
        folder(COMPLETIONS),
        text_file(f"{COMPLETIONS}/chef-backend-ctl", completion.script(settings)),
    ]


def unit_text(name: str, python: str = sys.executable) -> str:
    """The unit; the program comes from the Python that the library was installed into."""
    return UNIT_TEXT.format(command=f"{Path(python)} -m chefha_core.leaderl --name {name}")
