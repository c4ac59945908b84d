"""PostgreSQL on a machine of the lab, asked on the machine itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.api import Lab

SOCKETS = "/run/chefha/postgresql"


def sql(lab: Lab, node: str, statement: str, timeout: float = 30) -> str:
    """Run a statement as the role postgres; what it printed, without decoration."""
    command = f'psql -X -h {SOCKETS} -U postgres -d postgres -At -v ON_ERROR_STOP=1 -c "$SQL"'
    code, text = lab.exec(node, command, timeout, env={"SQL": statement})
    assert code == 0, f"{node}: {statement}: {text}"
    return text.strip()


@contextmanager
def hanging(lab: Lab, node: str, process: str) -> Iterator[None]:
    """One of PostgreSQL's processes on a node is stopped meanwhile."""
    signal = f"pkill -{{}} -f '^postgres: .*{process}'"
    assert lab.exec(node, signal.format("STOP"))[0] == 0, f"there is no {process} on {node}"
    try:
        yield
    finally:
        lab.exec(node, signal.format("CONT"))
