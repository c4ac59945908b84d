"""leaderl and the passwords in the database: once for each leadership, again where it failed, one line for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chefha_core.leaderl import roles
from chefha_core.leaderl.roles import PAUSE, Roles
from chefha_core.parts.postgres import PostgresError


class Played:
    """What is asked of PostgreSQL."""

    def __init__(self) -> None:
        self.looked = self.written = 0
        self.fails = False

    def write_pgpass(self) -> None:
        self.written += 1

    def renew_roles(self) -> list[str]:
        self.looked += 1
        if self.fails:
            raise PostgresError("it is not there")
        return ["replicator"]


def at_once(job: Callable[[], None]) -> None:
    try:
        job()
    except PostgresError as error:
        roles.log.warning("%s", error)


@pytest.fixture
def made() -> tuple[Any, Roles]:
    postgres: Any = Played()
    return postgres, Roles(postgres, at_once)


def test_the_database_is_looked_at_once_for_each_leadership(
    made: tuple[Any, Roles], caplog: pytest.LogCaptureFixture
) -> None:
    postgres, kept = made
    with caplog.at_level("INFO"):
        for epoch in (3, 3, 3, 5, 5):
            kept.leading(epoch)
    assert postgres.looked == 2 and postgres.written == 0
    assert [record.getMessage() for record in caplog.records] == [
        "role replicator has the password and rights of the settings now"
    ] * 2


def test_what_failed_is_tried_again_after_a_pause(made: tuple[Any, Roles], monkeypatch: pytest.MonkeyPatch) -> None:
    postgres, kept = made
    now = [100.0]
    monkeypatch.setattr(roles.time, "monotonic", lambda: now[0])
    postgres.fails = True
    kept.leading(3)
    kept.leading(3)
    assert postgres.looked == 1
    postgres.fails = False
    now[0] += PAUSE
    kept.leading(3)
    kept.leading(3)
    assert postgres.looked == 2


def test_the_password_file_is_written_at_the_start(made: tuple[Any, Roles]) -> None:
    made[1].started()
    assert (made[0].written, made[0].looked) == (1, 0)
