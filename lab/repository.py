"""A Debian repository of the lab's own on its master: signed with a key made on the spot, served over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .nodes import Machines
from .progress import LabError
from .stack import ARCHIVES, Stack
from .topology import MASTER

PORT = 8000
FOLDER = "/srv/lab-repository"
LINE = f"deb http://{MASTER.address}:{PORT}/ stable main"
KEY = f"{FOLDER}/key.asc"
#: what the repository was made of
MADE_OF = f"{FOLDER}/made-of"
UNIT = "lab-repository.service"
UNIT_TEXT = f"""\
[Unit]
Description=Debian repository of the lab
After=network.target

[Service]
ExecStart=/usr/bin/python3 -m http.server {PORT} --bind {MASTER.address} --directory {FOLDER}
User=nobody
Restart=always

[Install]
WantedBy=multi-user.target
"""
SCRIPT = Path(__file__).parent / "inside/debs.py"
BUILD_TIMEOUT = 180.0
#: behind a version: the same archive in another package, so that an upgrade can be seen
AGAIN = "+again"


def ensure(machines: Machines, stack: Stack, more: Mapping[str, bytes]) -> str:
    """Have the repository on the master, with what the stack takes from it and the packages `more` (file name to
    content); its key, armoured."""
    inputs = [SCRIPT.read_bytes(), json.dumps(stack.label(), sort_keys=True).encode(), *more.values()]
    made_of = hashlib.sha256(b"\0".join(inputs)).hexdigest()
    if machines.run(MASTER, ["cat", MADE_OF], 10).out != made_of:
        _build(machines, stack, more)
        machines.write(MASTER, {MADE_OF: made_of})
    return machines.check(MASTER, ["cat", KEY], 10)


def _build(machines: Machines, stack: Stack, more: Mapping[str, bytes]) -> None:
    machines.check(MASTER, ["sh", "-c", f"rm -rf {FOLDER} && mkdir -p {FOLDER}/pool"])
    machines.write(MASTER, {f"{FOLDER}/pool/{name}": content for name, content in more.items()})
    machines.write(MASTER, {"/usr/local/sbin/lab-debs": SCRIPT.read_bytes(), f"/etc/systemd/system/{UNIT}": UNIT_TEXT})
    if "search" in stack.packaged and stack.search_version:
        archive = f"{ARCHIVES}/{stack.search}-{stack.search_version}.zip"
        versions = [stack.search_version, stack.search_version + AGAIN]
        command = ["python3", "/usr/local/sbin/lab-debs", "search", stack.search, archive, f"{FOLDER}/pool", *versions]
        machines.check(MASTER, command, BUILD_TIMEOUT)
    machines.check(MASTER, ["python3", "/usr/local/sbin/lab-debs", "index", FOLDER], BUILD_TIMEOUT)
    release = f"{FOLDER}/dists/stable/Release"
    signed, key = _signed(machines.check(MASTER, ["cat", release], 10))
    machines.write(MASTER, {f"{FOLDER}/dists/stable/InRelease": signed, KEY: key})
    machines.check(MASTER, ["sh", "-c", f"systemctl daemon-reload && systemctl enable --now {UNIT}"])


def _signed(text: str) -> tuple[bytes, bytes]:
    """The text with a signature, and the key that made it, which nobody keeps."""
    with tempfile.TemporaryDirectory(prefix="lab-gpg-") as home:
        try:
            _gpg(home, "--passphrase", "", "--quick-generate-key", "chefha's lab", "ed25519", "sign", "never")
            return _gpg(home, "--clearsign", text=text.encode()), _gpg(home, "--armor", "--export")
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], capture_output=True, check=False)


def _gpg(home: str, *words: str, text: bytes = b"") -> bytes:
    done = subprocess.run(
        ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", *words],
        input=text, capture_output=True, check=False, env={**os.environ, "GNUPGHOME": home},
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"gpg {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
