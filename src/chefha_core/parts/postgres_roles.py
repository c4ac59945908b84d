"""Who may do what in the database, and what this node's PostgreSQL is to be: pure texts, SQL and role.conf."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from chefha_core.layout.postgres_files import quoted
from chefha_core.parts.postgres_tools import PostgresError
from chefha_core.settings import Settings

_ITERATIONS = 4096
#: what pg_rewind calls on its source besides plain replication
_REWIND_FUNCTIONS = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)
_HOST = re.compile(r"\bhost='?([^'\s]+)")
#: parameters of role.conf, which "alter system" must not hide
ROLE_PARAMETERS = ("primary_conninfo", "primary_slot_name", "synchronous_standby_names", "recovery_target_timeline")


@dataclass(frozen=True)
class Role:
    """What role.conf says: where this node streams from ("" nowhere), and who must acknowledge its commits."""

    conninfo: str = ""
    slot: str = ""
    sync_names: tuple[str, ...] = ()
    numsync: int = 1

    def text(self) -> str:
        """role.conf."""
        return (
            "# Written by leaderl alone, for each change of role\n"
            f"primary_conninfo = {quoted(self.conninfo)}\n"
            f"primary_slot_name = {quoted(self.slot)}\n"
            f"synchronous_standby_names = {quoted(sync_parameter(self.sync_names, self.numsync))}\n"
            "recovery_target_timeline = 'latest'\n"
        )


def sync_parameter(names: Iterable[str], numsync: int = 1) -> str:
    """``synchronous_standby_names`` for any ``numsync`` of these names; "" for none."""
    listed = ",".join(f'"{name}"' for name in names)
    return f"ANY {numsync} ({listed})" if listed else ""


def sync_names(parameter: str) -> tuple[str, ...]:
    """The names within ``synchronous_standby_names``, in order."""
    inner = parameter.partition("(")[2].rpartition(")")[0] if "(" in parameter else parameter
    return tuple(name.strip().strip('"') for name in inner.split(",") if name.strip())


def upstream(conninfo: str) -> str:
    """The address within a connection string; "" if there is none."""
    found = _HOST.search(conninfo)
    return found.group(1) if found else ""


def slot_name(member: str) -> str:
    """The replication slot of a member; slots know only a-z, 0-9 and "_", and 63 of them."""
    plain = re.sub(r"[^a-z0-9_]", "_", member.lower())
    if len(plain) > 56:
        plain = plain[:47] + "_" + hashlib.sha256(member.encode()).hexdigest()[:8]
    return f"chefha_{plain}"


def slot_names(members: Iterable[str]) -> dict[str, str]:
    """Slot -> member; PostgresError if two members would share one."""
    found: dict[str, str] = {}
    for member in members:
        slot = slot_name(member)
        if slot in found:
            raise PostgresError(f"members {found[slot]} and {member} would share the slot {slot}; rename one of them")
        found[slot] = member
    return found


def role_statements(settings: Settings) -> list[str]:
    """SQL, one line each, that creates chefha's roles or gives them their present passwords and rights.

    Passwords go in as SCRAM verifiers, so none can be read from a log, a statistics view or a crash dump.
    """
    pg, secrets = settings.postgresql, settings.secrets
    statements = []
    for name, rights, password in (
        (pg.replication_user, "REPLICATION", secrets.replication_password),
        (pg.db_superuser, "SUPERUSER", secrets.superuser_password),
    ):
        role = _name(name)
        exists = f"SELECT FROM pg_catalog.pg_roles WHERE rolname = {_text(name)}"
        statements.append(f"DO $do$ BEGIN IF NOT EXISTS ({exists}) THEN CREATE ROLE {role}; END IF; END $do$")
        statements.append(f"ALTER ROLE {role} LOGIN {rights} PASSWORD {_text(scram_verifier(password))}")
    replicator = _name(pg.replication_user)
    statements += [f"GRANT EXECUTE ON FUNCTION pg_catalog.{f} TO {replicator}" for f in _REWIND_FUNCTIONS]
    statements.append(_encryption_of_new_passwords(settings))
    # so that a clone can ask how large it will be
    return [*statements, f"GRANT pg_read_all_stats TO {replicator}"]


def _encryption_of_new_passwords(settings: Settings) -> str:
    """Chef makes its roles itself through db_superuser, and its services know no SCRAM: theirs become md5."""
    change = "SET password_encryption = 'md5'" if settings.frontends else "RESET password_encryption"
    return f"ALTER ROLE {_name(settings.postgresql.db_superuser)} {change}"


def scram_verifier(password: str, salt: bytes = b"") -> str:
    """What PostgreSQL stores for a password with ``scram-sha-256`` (RFC 5803)."""
    salt = salt or os.urandom(16)
    # NFKC is all of SASLprep that matters for text people can type
    plain = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", plain, salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(_ITERATIONS, *parts)


def pgpass_text(settings: Settings) -> str:
    """The password file of the followers: the replication role, on any member and database."""
    user, password = (
        text.replace("\\", "\\\\").replace(":", "\\:")
        for text in (settings.postgresql.replication_user, settings.secrets.replication_password)
    )
    return f"*:*:*:{user}:{password}\n"


def without_role_parameters(auto_conf: str) -> str:
    """postgresql.auto.conf without what "alter system" set of role.conf's parameters: it would be read last and win."""
    setting = re.compile(rf"\s*({'|'.join(ROLE_PARAMETERS)})\b", re.IGNORECASE)
    return "".join(line for line in auto_conf.splitlines(keepends=True) if not setting.match(line))


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
