"""Completion for bash, made from the parsers themselves: the states write it again whenever the verbs, the members or
the services change.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

from chefha_core.cli import all_parsers
from chefha_core.settings import Settings
from chefha_core.verbs.status import UNITS, units_of
from chefha_core.verbs.switches import WORDS

#: arguments that are files or folders: bash completes those by itself
FILES = ("FILE", "PATH", "DIR", "SECRETS_FILE")
SCRIPT = """\
# Completion of chef-backend-ctl, made from its own parsers by chefha's states.
_chef_backend_ctl() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} words=""
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        words="{verbs}"
    else
        case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
        *)
            case "${{COMP_WORDS[1]}}" in
{options}
            esac ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}}
complete -F _chef_backend_ctl chef-backend-ctl
"""


def script(settings: Settings | None = None) -> str:
    """The file for /usr/share/bash-completion/completions; without settings it knows no members' names."""
    known = {
        "NODE": list(settings.members) if settings else [],
        "PEER_IP": [str(address) for address in settings.members.values()] if settings else [],
        "SERVICE": list(units_of(settings, next(iter(settings.members))) if settings else UNITS),
        "STATE": list(WORDS),
    }
    verbs = all_parsers()
    values = [line for verb, parser in verbs.items() for line in _values(verb, parser, known)]
    options = [_options(verb, parser, known) for verb, parser in verbs.items()]
    return SCRIPT.format(verbs=" ".join(sorted(verbs)), values="\n".join(values), options="\n".join(options))


def _values(verb: str, parser: argparse.ArgumentParser, known: Mapping[str, Iterable[str]]) -> list[str]:
    """A case for each option that takes a value."""
    lines = []
    for action in _actions(parser):
        if action.option_strings and action.nargs != 0:
            patterns = " | ".join(f'"{verb} {option}"' for option in action.option_strings)
            lines.append(f"        {patterns}) {_words(action, known)} ;;")
    return lines


def _options(verb: str, parser: argparse.ArgumentParser, known: Mapping[str, Iterable[str]]) -> str:
    """The case of a verb: its options, and what its arguments may be."""
    actions = _actions(parser)
    words = [option for action in actions for option in action.option_strings]
    words += [word for action in actions if not action.option_strings for word in _choices(action, known)]
    files = any(not action.option_strings and _kind(action) in FILES for action in actions)
    return f'            {verb}) words="{" ".join(words)}"{"; compopt -o default" if files else ""} ;;'


def _words(action: argparse.Action, known: Mapping[str, Iterable[str]]) -> str:
    return "compopt -o default" if _kind(action) in FILES else f'words="{" ".join(_choices(action, known))}"'


def _choices(action: argparse.Action, known: Mapping[str, Iterable[str]]) -> list[str]:
    return [str(word) for word in action.choices or known.get(_kind(action), ())]


def _kind(action: argparse.Action) -> str:
    return str(action.metavar or action.dest).upper()


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return list(parser._actions)  # argparse has no public way to its own arguments
