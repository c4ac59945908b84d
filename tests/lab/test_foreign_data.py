"""A data directory that is not this cluster's is somebody's data: refused, and left as it is."""

from __future__ import annotations

from lab.api import Lab
from lab.topology import BY_NAME
from lab.witness import Witness, others

DATA = "/var/lib/chefha/postgresql/data"
KEPT = f"{DATA}.kept-by-test"
UNITS = "chefha-leaderl.service chefha-postgresql.service"
SWAP = f"""
set -e
systemctl stop {UNITS}
major=$(cat {DATA}/PG_VERSION)
mv {DATA} {KEPT}
setpriv --reuid postgres --regid postgres --init-groups \
  "/usr/lib/postgresql/$major/bin/initdb" -D {DATA} --auth=peer --no-sync >/dev/null
systemctl start chefha-leaderl.service
"""
SWAP_BACK = f"""
[ -d {KEPT} ] || exit 0
systemctl stop {UNITS}
rm -rf {DATA}
mv {KEPT} {DATA}
systemctl start chefha-leaderl.service
"""
CONTENT = f"cd {DATA} && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"


def test_f39_data_of_another_cluster_is_refused_and_left_alone(lab: Lab, witness: Witness) -> None:
    """F39: the node is blocked and says which cluster the data belongs to; not a byte of it changes."""
    witness.await_converged(45)
    leader = witness.leader()
    node = others(leader)[0]
    machines = lab.machines
    try:
        machines.check(BY_NAME[node], ["sh", "-c", SWAP], 60)
        content = lab.exec(node, CONTENT)

        def refused() -> list[str]:
            [seen] = [row for row in witness.look() if row.name == node]
            return [] if "another cluster" in seen.reason else [f"{node} says: {seen.role}: {seen.reason}"]

        witness.await_true(refused, 30, "foreign data was not refused")
        answer = lab.salt(leader, "chefha.cluster_status")[leader]
        [row] = [row for row in answer["members"] if row["name"] == node]
        assert "another cluster" in row["reason"]
        assert lab.exec(node, CONTENT) == content
        assert witness.leader() == leader
    finally:
        machines.check(BY_NAME[node], ["sh", "-c", SWAP_BACK], 60)
    witness.await_converged(60)
