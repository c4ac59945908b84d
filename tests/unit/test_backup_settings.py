"""What the pillar says of backups, what PostgreSQL and its user get of it, and how progress is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chefha_core.backup.stores import Directory, open_store
from chefha_core.backup.wal import CONFIG, config_text
from chefha_core.checked import SettingsError, build
from chefha_core.cli.backups import Progress, size
from chefha_core.layout.base import for_front_end
from chefha_core.layout.postgres_files import postgresql_conf
from chefha_core.layout.postgresql import backups
from chefha_core.settings import Backup, Settings, from_pillar
from chefha_core.verbs import backup
from chefha_core.verbs.config import shown
from chefha_core.verbs.reach import VerbError


def settings(backup: dict[str, object], **postgresql: object) -> Settings:
    tree = {"members": {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}, "vip": "10.0.0.9"}
    return from_pillar({**tree, "backup": backup, "postgresql": postgresql}, "anybody")


def test_by_default_postgresql_neither_archives_nor_summarizes() -> None:
    text = postgresql_conf(settings({}), "a")
    assert "archive_mode" not in text and "summarize_wal" not in text


def test_log_archive_and_incremental_backups_are_postgresqls_when_asked_for() -> None:
    text = postgresql_conf(settings({"wal_archive": True, "incremental": True}), "a")
    assert "summarize_wal = on" in text and "archive_mode = on" in text
    assert 'chefha_core.backup.wal push "%p"' in text


@pytest.mark.parametrize(
    ("backup", "postgresql", "words"),
    [
        ({"incremental": True}, {"version": 15}, "since 17"),
        ({"s3": {"bucket": "b", "access_key": "k"}}, {}, "expected both or neither"),
        ({"wal_archive": True}, {"parameters": {"archive_command": "x"}}, "sets archive_command"),
        ({"directory": "relative"}, {}, "absolute path"),
        ({"compression": "lz4"}, {}, "expected one of zstd, gzip"),
    ],
)
def test_what_cannot_be_is_refused_when_the_pillar_is_read(
    backup: dict[str, object], postgresql: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        settings(backup, **postgresql)


def test_the_key_of_the_bucket_is_for_root_and_postgresqls_user_alone() -> None:
    wanted = settings({"s3": {"bucket": "b", "access_key": "k", "secret_key": "very-secret"}})
    assert "very-secret" not in json.dumps(shown(wanted))
    assert "very-secret" not in json.dumps(for_front_end(wanted).to_dict())
    [wish] = backups(wanted)
    assert wish.arguments["name"] == str(CONFIG) and wish.arguments["show_changes"] is False
    assert (wish.arguments["user"], wish.arguments["mode"]) == ("postgres", "0600")
    assert build(Backup, json.loads(config_text(wanted)), "backup") == wanted.backup


def test_without_a_bucket_archives_go_to_the_folder() -> None:
    store = open_store(settings({"directory": "/srv/backups"}).backup)
    assert isinstance(store, Directory) and store.where("x") == "/srv/backups/x"
    folders = [(w.arguments["name"], w.arguments["user"]) for w in backups(settings({"directory": "/srv/backups"}))[1:]]
    assert folders == [("/srv/backups", "root"), ("/srv/backups/wal", "postgres")]


def test_progress_is_a_line_a_second_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    line = Progress()
    for step in range(31):
        now[0] = step / 10
        line("taking", step * 10_000_000, 1_000_000_000)
    now[0] = 3.1
    line("verifying", 1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "taking      10%  100.0 MB 100.0 MB/s  9 s left" and len(lines) == 3


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (5.4e9, "5.4 GB"), (7e15, "7000.0 TB")],
)
def test_sizes_are_for_people(count: float, text: str) -> None:
    assert size(count) == text


def test_a_backup_where_postgresql_has_no_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    there = settings({"directory": str(tmp_path / "archives")}, data_dir=str(tmp_path / "none" / "data"))
    with pytest.raises(
        VerbError, match=r"^backup: .*/none, cannot be used: No such file .* whose states were applied$"
    ):
        backup.backup(there, "a")
