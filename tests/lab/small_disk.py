"""PostgreSQL of one machine on a file system of a bounded size, which a test may fill: nothing else can get full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.api import Lab

HOME = "/var/lib/chefha/postgresql"
FILLER = f"{HOME}/filler"
UNITS = "chefha-leaderl.service chefha-postgresql.service"
#: MiB beside the data that is there
ROOM = 400
_MOVE_IN = f"""
set -e
systemctl stop {UNITS}
size=$(( $(du -sm {HOME} | cut -f 1) + {ROOM} ))
mv {HOME} {HOME}.big
mkdir {HOME}
mount -t tmpfs -o size=${{size}}m,mode=0700,uid=postgres,gid=postgres small {HOME}
cp -a {HOME}.big/. {HOME}/
rm -rf {HOME}.big
systemctl start chefha-leaderl.service
"""
_MOVE_OUT = f"""
set -e
rm -f {FILLER}
systemctl stop {UNITS}
cp -a {HOME} {HOME}.big
umount {HOME}
rmdir {HOME}
mv {HOME}.big {HOME}
systemctl start chefha-leaderl.service
"""


@contextmanager
def small_disk(lab: Lab, node: str) -> Iterator[None]:
    """While the block runs PostgreSQL's folder of `node` is a file system of its own, in memory."""
    _run(lab, node, _MOVE_IN)
    try:
        yield
    finally:
        _run(lab, node, _MOVE_OUT)


def fill(lab: Lab, node: str, leave: int) -> None:
    """Fill the small file system but for so many MiB."""
    free = f"$(( $(df -m --output=avail {HOME} | tail -n 1) - {leave} ))"
    _run(lab, node, f"fallocate -l {free}M {FILLER}")


def make_room(lab: Lab, node: str) -> None:
    """Take back what `fill` did."""
    _run(lab, node, f"rm -f {FILLER}")


def _run(lab: Lab, node: str, script: str) -> None:
    code, said = lab.exec(node, ["bash", "-c", script], 90)
    assert code == 0, f"{node}: {said}"
