"""The shell command ``chef-backend-ctl``: the verbs on this node. Errors are one sentence on stderr and exit code 1;
with --json also ``{"error": …}`` on stdout, so that whoever reads it always finds one JSON object there.

One module per group of verbs. Each has ``add(parsers)``, and imports what its verbs need only when one is carried out:
`cluster-status` must answer within half a second.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from chefha_core.checked import SettingsError
from chefha_core.cli.terms import Parsers
from chefha_core.verbs.reach import VerbError

#: which module has which verbs
GROUPS = {
    "looking": ("cluster-status", "status", "version", "show-config"),
    "leading": ("promote", "demote", "converge", "set-cluster-failover", "set-node-failover"),
    "members": ("bootstrap", "create-cluster", "join-cluster", "remove-node", "force-leader"),
    "backups": ("backup", "restore"),
    "care": (
        *("start", "stop", "restart", "once", "hup", "term", "kill", "tail", "service-list"),
        *("gather-logs", "reconfigure", "cleanse", "uninstall"),
    ),
    "upgrading": ("upgrade",),
    "samples": ("gen-server-config", "gen-sample-backend-config", "gen-secrets"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one verb; the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    wanted = _parsers(words).root.parse_args(words)
    try:
        return wanted.run(wanted) or 0
    except (VerbError, SettingsError) as error:
        if getattr(wanted, "json", False):
            print(json.dumps({"error": str(error)}))
        print(f"chef-backend-ctl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parsers(words: Sequence[str]) -> Parsers:
    """The parser of the verb that is asked for, or of all where none is: for --help, and for a word nobody knows."""
    parsers = Parsers()
    asked = [group for group, verbs in GROUPS.items() if words and words[0] in verbs]
    for group in asked or GROUPS:
        importlib.import_module(f"{__name__}.{group}").add(parsers)
    return parsers


def all_parsers() -> dict[str, argparse.ArgumentParser]:
    """Every verb with its parser."""
    return _parsers([]).verbs
