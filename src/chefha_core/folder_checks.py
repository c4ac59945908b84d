"""Which folders a pillar may name: each gets an owner and a mode, so none may be the system's or within another."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from chefha_core.settings import Settings

#: folders that belong to the whole system, or to all of chefha: whoever took one away would take it from everybody
SHARED = frozenset(
    """
    / /bin /boot /dev /etc /home /lib /lib64 /media /mnt /opt /proc /root /run /sbin /snap /srv /sys /tmp /usr /var
    /usr/bin /usr/lib /usr/local /usr/sbin /usr/share /usr/src /etc/chefha /run/chefha /run/lock
    /var/backups /var/cache /var/lib /var/lib/chefha /var/local /var/lock /var/log /var/mail /var/opt /var/run
    /var/spool /var/tmp
    """.split()
)


def folders(settings: Settings) -> str:
    """folders are absolute paths, none of them is the system's own or lies within another, and both are true of the
    folder around `postgresql:data_dir`, which is PostgreSQL's alone.
    """
    named = _named(settings)
    more = {"postgresql:bin_dir": settings.postgresql.bin_dir, "search:java_home": settings.search.java_home}
    read = {path: folder for path, folder in more.items() if folder}
    return _not_absolute(named | read) or _shared(named, settings) or _nested(named, settings)


def home_of_postgresql(settings: Settings) -> PurePosixPath:
    """The folder around the data directory: role.conf, passwords and former data are there, for PostgreSQL alone."""
    return PurePosixPath(settings.postgresql.data_dir).parent


def _not_absolute(named: dict[str, str]) -> str:
    for path, folder in named.items():
        if not re.fullmatch(r"(/[\w.@+:-]+)+/?|/", folder) or ".." in folder.split("/"):
            return (
                f"pillar chefha:{path} is {folder!r}; expected an absolute path of letters, digits and any of ._-+@: "
                "that does not go up by '..'"
            )
    return ""


def _shared(named: dict[str, str], settings: Settings) -> str:
    for path, folder in named.items():
        if str(PurePosixPath(folder)) in SHARED:
            return (
                f"pillar chefha:{path} is {folder}, which is not chefha's alone; expected a folder of its own such as "
                f"/var/lib/chefha/{path.partition(':')[0]}"
            )
    home = home_of_postgresql(settings)
    if str(home) in SHARED:
        return (
            f"pillar chefha:postgresql:data_dir is {settings.postgresql.data_dir}, and {home} around it would be made "
            "PostgreSQL's alone; expected a folder of its own around it, such as /var/lib/chefha/postgresql/data"
        )
    return ""


def _nested(named: dict[str, str], settings: Settings) -> str:
    """What belongs to one user is closed to the others, and goes when what is around it is emptied or replaced."""
    whole = {path: PurePosixPath(folder) for path, folder in named.items()}
    whole["postgresql:data_dir"] = home_of_postgresql(settings)
    for path, folder in named.items():
        for other, around in whole.items():
            if other != path and PurePosixPath(folder).is_relative_to(around):
                return (
                    f"pillar chefha:{path} is {folder}, which is or lies within {around}, the folder of "
                    f"chefha:{other}; expected one elsewhere"
                )
    return ""


def _named(settings: Settings) -> dict[str, str]:
    """Pillar path -> folder."""
    return {
        "postgresql:data_dir": settings.postgresql.data_dir,
        "etcd:data_dir": settings.etcd.data_dir,
        "search:data_dir": settings.search.data_dir,
        "search:log_dir": settings.search.log_dir,
        "tls:directory": settings.tls.directory,
        "backup:directory": settings.backup.directory,
    }
