"""docs/commands.md: every verb in its three forms, read from the parsers and the loader modules' docstrings."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

from tests.ports_page import table

from chefha_core.cli import all_parsers

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ROOT / "docs/commands.md"


def commands() -> str:
    """A row per verb: what it does, and how it is called in the shell, through Salt, by the runner."""
    shell = {name.replace("-", "_"): parser for name, parser in all_parsers().items()}
    modules, runners = functions("_modules"), functions("_runners")
    rows = []
    for verb in sorted({*shell, *modules, *runners}):
        said = modules.get(verb) or runners.get(verb)
        what = sentence(said) if said else str(shell[verb].description)
        calls = [example(verb, found) for found in (modules, runners)]
        calls.insert(0, _usage(verb, shell[verb]) if verb in shell else "")
        rows.append([verb.replace("_", "-"), what, *(f"`{call}`" if call else "" for call in calls)])
    return table(("verb", "what it does", "`chef-backend-ctl …`", "execution module", "runner"), rows)


def functions(folder: str) -> dict[str, str]:
    """What the loader modules in a folder have for the command line, with their docstrings."""
    found = {}
    for path in sorted((ROOT / folder).glob("chefha*.py")):
        for one in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(one, ast.FunctionDef) and not one.name.startswith("_"):
                found[one.name] = ast.get_docstring(one) or ""
    found.pop("verb", None)  # for the modules themselves
    return found


def sentence(doc: str) -> str:
    """The first sentence of a docstring."""
    text = " ".join(doc.split("\n\n")[0].split())
    return re.split(r"(?<=[.;]) ", text)[0].rstrip(".;:").replace("|", r"\|").replace("``", "`")


def example(verb: str, docs: dict[str, str]) -> str:
    """The first command of its CLI example; empty where there is no such function."""
    lines = docs.get(verb, "").partition("CLI Example:")[2].splitlines()
    return next((line.strip() for line in lines if line.strip().startswith("salt")), "")


def _usage(verb: str, parser: argparse.ArgumentParser) -> str:
    """How the shell takes it; the parser of an alias knows the first name only."""
    words = " ".join([verb.replace("_", "-"), *parser.format_usage().partition("chef-backend-ctl ")[2].split()[1:]])
    return words.replace("[-h] ", "").replace(" [-h]", "").replace("|", r"\|")
