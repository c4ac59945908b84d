"""Who may do what in the database, and what this node's PostgreSQL is to be: pure texts, SQL and role.conf."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
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
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(?P<iterations>[1-9]\d{0,6}):(?P<salt>[A-Za-z0-9+/=]+)\$[^:]+:.+")
_SET_ENCRYPTION, _RESET_ENCRYPTION = "SET password_encryption = '%s'", "RESET password_encryption"
_QUIET = (
    "SET synchronous_commit = local",
    "SET log_statement = 'none'",
    "SET log_min_duration_statement = -1",
    "SET log_min_error_statement = 'panic'",
)
#: sessions that the monitoring role may have at once
MONITORS = 10
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


@dataclass(frozen=True)
class Login:
    """One of chefha's own roles: what it may do, and nothing beyond."""

    name: str
    password: str
    rights: str
    grants: tuple[str, ...] = ()
    #: how passwords are stored that this role gives to others; "" as everywhere, which is SCRAM
    encryption: str = ""

    def statements(self) -> list[str]:
        """SQL, one line each, that creates the role or gives it its present password and rights."""
        role = _name(self.name)
        exists = f"SELECT FROM pg_catalog.pg_roles WHERE rolname = {_text(self.name)}"
        return [
            f"DO $do$ BEGIN IF NOT EXISTS ({exists}) THEN CREATE ROLE {role}; END IF; END $do$",
            f"ALTER ROLE {role} LOGIN {self.rights} PASSWORD {_text(scram_verifier(self.password))}",
            f"ALTER ROLE {role} " + (_SET_ENCRYPTION % self.encryption if self.encryption else _RESET_ENCRYPTION),
            *(f"GRANT {grant} TO {role}" for grant in self.grants),
        ]

    def fits(self, password: str | None, config: Sequence[str]) -> bool:
        """True if the database has this password and these settings for the role."""
        stored = dict(line.split("=", 1) for line in config)
        return verifier_matches(self.password, password) and stored.get("password_encryption", "") == self.encryption


def logins(settings: Settings) -> tuple[Login, ...]:
    """chefha's own roles."""
    pg, secrets = settings.postgresql, settings.secrets
    functions = tuple(f"EXECUTE ON FUNCTION pg_catalog.{function}" for function in _REWIND_FUNCTIONS)
    plain = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"
    return (
        Login(pg.replication_user, secrets.replication_password, f"{plain} REPLICATION"),
        # statistics, so that a clone can ask how large it will be
        Login(pg.rewind_user, secrets.rewind_password, f"{plain} NOREPLICATION", (*functions, "pg_read_all_stats")),
        Login(
            pg.monitoring_user,
            secrets.monitoring_password,
            f"{plain} NOREPLICATION CONNECTION LIMIT {MONITORS}",
            ("pg_monitor",),
        ),
        # Chef makes its roles itself through this one, and its services know no SCRAM
        Login(pg.db_superuser, secrets.superuser_password, "SUPERUSER", encryption="md5" if settings.frontends else ""),
    )


def role_statements(settings: Settings) -> list[str]:
    """SQL, one line each, that creates chefha's roles or gives them their present passwords and rights.

    Passwords go in as SCRAM verifiers, so none can be read from a log, a statistics view or a crash dump.
    """
    return [statement for login in logins(settings) for statement in login.statements()]


#: name, stored password and settings of every role
STORED = (
    "SELECT a.rolname, a.rolpassword, coalesce(s.setconfig, '{}') FROM pg_catalog.pg_authid a "
    "LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setrole = a.oid AND s.setdatabase = 0"
)


def outdated(settings: Settings, stored: Iterable[tuple[str, str | None, Sequence[str]]]) -> list[Login]:
    """Which of chefha's roles are not in the database as the settings have them; ``stored``: rows of ``STORED``."""
    known = {name: (password, config) for name, password, config in stored}
    return [login for login in logins(settings) if not login.fits(*known.get(login.name, (None, ())))]


def quietly(statements: list[str]) -> list[str]:
    """The same within a session that waits for no standby, and of which nothing is logged."""
    return [*_QUIET, *statements] if statements else []


def verifier_matches(password: str, verifier: str | None) -> bool:
    """True if a stored verifier is that of this password; any other kind of stored password is none."""
    found = _VERIFIER.fullmatch(verifier or "")
    if found is None:
        return False
    salt = base64.b64decode(found["salt"])
    return hmac.compare_digest(scram_verifier(password, salt, int(found["iterations"])), found[0])


def scram_verifier(password: str, salt: bytes = b"", iterations: int = _ITERATIONS) -> str:
    """What PostgreSQL stores for a password with ``scram-sha-256`` (RFC 5803)."""
    salt = salt or os.urandom(16)
    # NFKC is all of SASLprep that matters for text people can type
    plain = unicodedata.normalize("NFKC", password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", plain, salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(iterations, *parts)


def pgpass_text(settings: Settings) -> str:
    """The password file of the followers: the roles by which they stream and rewind, on any member and database."""
    pg, secrets = settings.postgresql, settings.secrets
    pairs = ((pg.replication_user, secrets.replication_password), (pg.rewind_user, secrets.rewind_password))
    return "".join(f"*:*:*:{_escaped(user)}:{_escaped(password)}\n" for user, password in pairs)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def without_role_parameters(auto_conf: str) -> str:
    """postgresql.auto.conf without what "alter system" set of role.conf's parameters: it would be read last and win."""
    setting = re.compile(rf"\s*({'|'.join(ROLE_PARAMETERS)})\b", re.IGNORECASE)
    return "".join(line for line in auto_conf.splitlines(keepends=True) if not setting.match(line))


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
