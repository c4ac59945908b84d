"""role.conf: what this node's PostgreSQL is to be, as it stands on the disk and as the running server took it over."""

from __future__ import annotations

import signal
import time

from chefha_core.parts import postgres_roles as roles
from chefha_core.parts import postgres_sql as sql
from chefha_core.parts import postmaster
from chefha_core.parts.postgres_tools import Places, PostgresError

#: seconds between two questions to the server
LOOK = 0.005


def read(places: Places) -> roles.Role:
    """Who must acknowledge commits, as it was written last; nobody where nothing was."""
    try:
        lines = places.role_conf.read_text(encoding="utf-8").splitlines()
    except OSError:
        return roles.Role()
    names = next((x for x in lines if x.startswith("synchronous_standby_names")), "").partition("'")[2]
    words = names.split()
    return roles.Role("", "", roles.sync_names(names.rstrip("'")), int(words[1]) if len(words) > 1 else 1)


def write(places: Places, role: roles.Role) -> None:
    """Write it, and take away what "alter system" would hide it by."""
    places.write(places.role_conf, role.text())
    auto = places.data / "postgresql.auto.conf"
    if auto.exists():
        text = auto.read_text(encoding="utf-8")
        if (kept := roles.without_role_parameters(text)) != text:
            places.write(auto, kept)


def await_durability(places: Places, name: str, wanted: str, until: float) -> None:
    """Until commits wait: that begins when the checkpointer has loaded the change, perhaps after long fsyncs."""
    ask = (
        "select current_setting('synchronous_standby_names'), pid, wait_event "
        "from pg_stat_activity where backend_type = 'checkpointer'"
    )
    calm = 0
    with sql.session(sql.local_dsn(places), until) as local:
        while time.monotonic() < until:
            (running, pid, waits), *_ = local.rows(ask, until)
            asleep = waits in ("CheckpointerMain", "CheckpointWriteDelay")
            done = running == wanted and asleep and postmaster.took_signal(pid, signal.SIGHUP)
            calm = calm + 1 if done else 0
            if calm == 2:  # the postmaster tells the checkpointer a moment later than this session
                return
            time.sleep(LOOK)
    raise PostgresError(
        f"PostgreSQL on {name} has not taken over who must acknowledge its commits: its checkpointer is busy "
        "(slow storage?); trying again"
    )
