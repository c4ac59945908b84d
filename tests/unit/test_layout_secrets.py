"""What is laid out on a member: no secret is shown in a state's answer, or stands where others may read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chefha_core import secrets
from chefha_core.layout.base import settings_files, tls_files
from chefha_core.layout.catalogue import LAYOUTS
from chefha_core.settings import Settings, from_pillar, load

MEMBERS = {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"}


@pytest.fixture(scope="module")
def settings() -> Settings:
    made = secrets.generate(MEMBERS, "192.0.2.100")
    made["secrets"]["previous_token"] = "5" * 48
    return from_pillar({"members": MEMBERS, "vip": "192.0.2.100", **made})


@pytest.mark.parametrize("state", LAYOUTS)
def test_no_secret_is_shown_or_open_to_others(settings: Settings, state: str) -> None:
    tree = settings.to_dict()["secrets"]
    hidden = [*tree.values(), settings.tls.key.splitlines()[2]]
    for wish in LAYOUTS[state](settings, "be1"):
        if any(secret in json.dumps(dict(wish.arguments)) for secret in hidden):
            assert wish.state == "file.managed" and wish.arguments["show_changes"] is False
            assert wish.arguments["mode"] == "0600", wish.arguments["name"]


def test_certificates_are_no_settings_so_new_ones_restart_nothing(settings: Settings, tmp_path: Path) -> None:
    text = settings_files(settings, "be1")[-1].arguments["contents"]
    assert "-----BEGIN" not in text
    (tmp_path / "settings.json").write_text(text)
    read = load(tmp_path / "settings.json")
    assert read.secrets == settings.secrets and read.tls.enabled and read.tls.directory == settings.tls.directory


def test_postgresql_takes_up_new_certificates_if_it_runs(settings: Settings) -> None:
    last = tls_files(settings, "be1")[-1]
    assert last.after_change and "reload chefha-postgresql.service" in last.arguments["name"]
    assert "is-active" in last.arguments["name"]
