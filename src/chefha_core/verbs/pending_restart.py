"""Settings of PostgreSQL that are written down, and count only when it is started anew."""

from __future__ import annotations

from chefha_core.parts.postgres_tools import Places

_PENDING = "select coalesce(string_agg(name, ', ' order by name), '') from pg_settings where pending_restart"


def problem(places: Places, until: float) -> str:
    """Which they are and what to do, one sentence; "" if there are none.

    PostgresError if PostgreSQL does not answer before the monotonic time ``until``.
    """
    from chefha_core.parts import postgres_sql as sql  # psycopg2, for which a status without PostgreSQL need not wait

    with sql.session(sql.local_dsn(places), until) as opened:
        names = opened.rows(_PENDING, until)[0][0]
    if not names:
        return ""
    return (
        f"PostgreSQL goes on with its former {names} until it is started anew: chef-backend-ctl restart postgresql on "
        "a follower; a leader hands over first (demote), which starts it anew"
    )
