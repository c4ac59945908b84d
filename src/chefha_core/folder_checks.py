"""Which folders a pillar may name: the states give each an owner and a mode, so none may be the system's."""

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
    """folders are absolute paths and none of them is the system's own, nor is the one around `postgresql:data_dir`."""
    named = _named(settings)
    for path, folder in named.items():
        if not re.fullmatch(r"(/[\w.@+:-]+)+/?|/", folder) or ".." in folder.split("/"):
            return (
                f"pillar chefha:{path} is {folder!r}; expected an absolute path of letters, digits and any of ._-+@: "
                "that does not go up by '..'"
            )
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


def home_of_postgresql(settings: Settings) -> PurePosixPath:
    """The folder around the data directory: role.conf, passwords and former data are there, for PostgreSQL alone."""
    return PurePosixPath(settings.postgresql.data_dir).parent


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
