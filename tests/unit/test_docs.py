"""What the documents say in numbers is what the code does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.commands_page import COMMANDS, commands, example, functions
from tests.pages import is_current
from tests.ports_page import PORTS, policy, tried, with_section

from chefha_core.cli import all_parsers
from chefha_core.plan.timing import timing
from chefha_core.settings import PROFILES, Secrets, Settings
from chefha_core.verbs.schema import reference

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_table_of_times_is_that_of_the_code() -> None:
    base = Settings(members={"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}, vip="10.0.0.9",
                    secrets=Secrets("s", "r", "t"))  # fmt: skip
    text = (DOCS / "timing.md").read_text(encoding="utf-8")
    for profile in PROFILES:
        times = timing(dataclasses.replace(base, profile=profile))
        numbers = (times.ttl, times.interval, times.request,
                   times.ask_leader_after, times.stand_after, times.stale_after)  # fmt: skip
        assert " | ".join(["", profile, *(f"{number:g}" for number in numbers)]).strip() + " |" in text


def test_the_page_of_the_pillar_is_that_of_the_code() -> None:
    is_current(DOCS / "pillar.md", reference())


def test_the_page_of_commands_is_that_of_the_code() -> None:
    is_current(COMMANDS, with_section(COMMANDS.read_text(encoding="utf-8"), "verbs", commands()))


def test_every_function_and_runner_has_an_example_of_itself() -> None:
    for folder, command in (("_modules", "salt '*' "), ("_runners", "salt-run ")):
        for verb, doc in functions(folder).items():
            assert f"chefha.{verb}" in example(verb, {verb: doc}), f"{folder}: {verb}: {command}chefha.{verb}"


def test_every_verb_of_the_shell_is_a_function_of_salt() -> None:
    """But for gen-secrets, whose answer would stay in the job cache: salt-run chefha.secrets writes a file instead."""
    assert {verb.replace("-", "_") for verb in all_parsers()} - set(functions("_modules")) == {"gen_secrets"}


def test_the_page_of_ports_is_the_policy_of_the_firewall() -> None:
    """What the lab's machines found is the other half of that page: tests/lab/test_ports.py."""
    is_current(PORTS, with_section(PORTS.read_text(encoding="utf-8"), "policy", policy()))


def test_what_machines_found_is_a_table_that_takes_the_place_of_the_last_one() -> None:
    found = {("a stranger", 4): {22: "open", 23: "filtered"}, ("a stranger", 6): {22: "closed", 23: "filtered"}}
    made = tried("A back end", ["a stranger"], found, {22: "ssh", 23: "nothing"})
    assert made.splitlines()[2:] == [
        "| port | service | from a stranger |",
        "| --- | --- | --- |",
        "| 22/tcp | ssh | open / closed |",
        "| 23/tcp | nothing | filtered / filtered |",
    ]
    once = with_section("# Page\n", "tried", made)
    assert made in once and once.startswith("# Page\n\n<!-- tried")
    assert with_section(with_section("# Page\n", "tried", "old\n"), "tried", made) == once
