"""gen-server-config: the chef-server.rb of one front end, as the states write it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from chefha_core.chef_server import chef_server_rb, fqdn_problem
from chefha_core.settings import Settings
from chefha_core.verbs.config import MASK, masked_values
from chefha_core.verbs.reach import VerbError


def gen_server_config(settings: Settings, fqdn: str, file: str = "", mask: bool = False) -> str:
    """The text; ``file``: written there, 0600, and its path returned; ``mask``: without its secrets."""
    if not fqdn:
        raise VerbError("gen-server-config: which front end? Give its host name (FQDN), such as chef.example.com")
    if problem := fqdn_problem(fqdn):
        raise VerbError(f"gen-server-config {fqdn}: {fqdn!r} {problem}; expected a name such as chef.example.com")
    if not settings.secrets.superuser_password:
        raise VerbError(
            "gen-server-config: this machine does not have the password of the front ends' superuser; ask a back or a "
            "front end of the cluster"
        )
    text = chef_server_rb(_masked(settings) if mask and not file else settings, fqdn)
    return _written(Path(file).absolute(), text) if file else text


def _masked(settings: Settings) -> Settings:
    """The same without what chef-server.rb has of secrets: the password, and those among its further lines."""
    front = dataclasses.replace(settings.frontend, settings=masked_values(settings.frontend.settings))
    secrets = dataclasses.replace(settings.secrets, superuser_password=MASK)
    return dataclasses.replace(settings, frontend=front, secrets=secrets)


def _written(path: Path, text: str) -> str:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as opened:
            opened.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise VerbError(f"gen-server-config: {path} cannot be written: {error.strerror}") from None
    return str(path)
