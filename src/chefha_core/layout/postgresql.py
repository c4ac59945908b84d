"""PostgreSQL on a member: files, unit, folders. It is leaderl who starts it, never systemd at boot, never Salt."""

from __future__ import annotations

from chefha_core.backup import wal
from chefha_core.folder_checks import home_of_postgresql
from chefha_core.layout import postgres_files
from chefha_core.layout.wish import CONFIG, Wish, folder, reloaded, stopped, text_file, unit_file, units_known
from chefha_core.settings import Settings

UNIT = "chefha-postgresql.service"
FILES = f"{CONFIG}/postgresql"


def postgresql(settings: Settings, name: str) -> list[Wish]:
    """Everything PostgreSQL needs to be started by leaderl."""
    own, private = "postgres", "0600"
    return [
        stopped("postgresql.service"),
        folder(str(home_of_postgresql(settings)), own, "0700"),
        folder(FILES, own, "0700"),
        text_file(f"{FILES}/postgresql.conf", postgres_files.postgresql_conf(settings, name), own, private),
        text_file(f"{FILES}/pg_hba.conf", postgres_files.pg_hba_conf(settings), own, private),
        text_file(f"{FILES}/pg_ident.conf", postgres_files.pg_ident_conf(), own, private),
        *backups(settings),
        unit_file(UNIT, postgres_files.unit_text(settings)),
        units_known(),
        reloaded(UNIT),
    ]


def backups(settings: Settings) -> list[Wish]:
    """What PostgreSQL needs to archive its log, and to get it back in a restore."""
    own, wanted = "postgres", settings.backup
    config = text_file(str(wal.CONFIG), wal.config_text(settings), own, "0600", secret=True)
    if wanted.s3.bucket:
        return [config]
    # others may pass through the folder of the archives, which are root's, to that of the log
    return [config, folder(wanted.directory, mode="0711"), folder(f"{wanted.directory}/wal", own, "0700")]
