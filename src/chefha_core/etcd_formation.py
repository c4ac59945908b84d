"""How this member's etcd begins, decided before each start: ``python -m chefha_core.etcd_formation --name NAME``.

An etcd that has data just goes on. Without data it is either one of the first three, or the machine was replaced, and
then the others must let it in under a new identity: with the old one it could vote against what it had once agreed to.
The answer goes into RUN_CONFIG, which is CONFIG_FILE and two lines more; docs/etcd.md has the table.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from chefha_core.checked import SettingsError
from chefha_core.layout.etcd import CONFIG_FILE, RUN_CONFIG, peer_url
from chefha_core.node import run_folder
from chefha_core.parts.etcd import EtcdClient, EtcdError, EtcdMember
from chefha_core.parts.etcd_members import Said, add_member, confirmed_members, heard_at, remove_member
from chefha_core.settings import SETTINGS_FILE, Settings, load
from chefha_core.verbs.etcd_access import root_client
from chefha_core.verbs.member import FORMATION
from chefha_core.verbs.reach import VerbError, tls_files

#: seconds for one question, and for trying again before systemd does
DEADLINE = 2.0
PATIENCE = 20.0


#: asks for a member without the others at the next start, and only that; made by the verb bootstrap, gone with a boot
ALONE = Path("/run/chefha/etcd-alone")


class NotYet(Exception):
    """This etcd must not start as things are; the text is a sentence."""


@dataclass(frozen=True)
class Beginning:
    """The two lines that etcd needs where it has no data, and one where it shall forget all other members."""

    state: str
    cluster: str
    alone: bool = False

    @property
    def lines(self) -> str:
        """As they stand in etcd's configuration."""
        forget = "force-new-cluster: true\n" if self.alone else ""
        return f"initial-cluster-state: {self.state}\ninitial-cluster: {self.cluster}\n{forget}"


@dataclass(frozen=True)
class Entry:
    """What the present members have to do before this one may start."""

    remove: str = ""
    add: bool = False


def first_three(own_url: str, said: Mapping[str, Said]) -> bool:
    """True if no etcd has formed anywhere yet, False if one has; NotYet if that is not certain.

    Whoever cannot be reached at all counts as not there: the first three begin one after the other.
    """
    if not said[own_url].absent:
        raise NotYet(f"an etcd runs at {own_url} already, which is this member's own address; find out whose it is")
    if any(heard.formed for heard in said.values()):
        return False
    if unclear := [heard.problem for heard in said.values() if heard.problem]:
        raise NotYet(f"it is not certain whether the others have an etcd already: {'; '.join(unclear)}")
    return True


def entry(name: str, own_url: str, members: Sequence[EtcdMember], running: Callable[[str], bool]) -> Entry:
    """How ``name`` without data gets in among ``members``; ``running``: does an etcd answer at this URL? NotYet."""
    own = [member for member in members if member.name == name or own_url in member.peer_urls]
    if len(own) > 1:
        listed = " and ".join(f"{member.name or 'a nameless one'} {member.id_hex}" for member in own)
        raise NotYet(f"etcd lists {listed}, and both could be {name} at {own_url}; remove the wrong one by hand")
    if not own:
        return Entry(add=True)
    (before,) = own
    if any(running(url) for url in before.peer_urls):
        where = ", ".join(before.peer_urls)
        raise NotYet(f"etcd's member {before.id_hex} is {name}, and an etcd runs at {where}; find out whose it is")
    if not before.client_urls and own_url in before.peer_urls:
        return Entry()  # let in, and never started
    return Entry(remove=before.id_hex, add=True)


def beginning(settings: Settings, name: str) -> Beginning:
    """How to begin; the others' list of members is changed if need be. NotYet."""
    static = ",".join(f"{member}={peer_url(settings, member)}" for member in sorted(settings.members))
    if any(Path(settings.etcd.data_dir).glob("member/wal/*.wal")):
        return Beginning("new", static, ALONE.exists())  # etcd ignores the two lines, where it has data
    tls = tls_files(settings)
    own_url, urls = peer_url(settings, name), [peer_url(settings, member) for member in settings.members]
    with ThreadPoolExecutor(len(urls)) as pool:
        said = dict(zip(urls, pool.map(lambda url: heard_at(url, tls, DEADLINE), urls), strict=True))
    if first_three(own_url, said):
        return Beginning("new", f"{name}={own_url}" if ALONE.exists() else static)
    try:
        client = root_client(settings, name, DEADLINE)
        try:
            members = _let_in(client, name, own_url, lambda url: not heard_at(url, tls, DEADLINE).absent)
        finally:
            client.close()
    except (EtcdError, VerbError, OSError) as error:
        raise NotYet(f"the other members have an etcd already and cannot let {name} in: {error}") from None
    rows = [(member.name or (name if own_url in member.peer_urls else member.id_hex), member) for member in members]
    return Beginning("existing", ",".join(f"{row}={url}" for row, member in rows for url in member.peer_urls))


def _let_in(client: EtcdClient, name: str, own_url: str, running: Callable[[str], bool]) -> tuple[EtcdMember, ...]:
    """The members with this one among them. EtcdError, NotYet."""
    members = confirmed_members(client)
    needed = entry(name, own_url, members, running)
    if needed.remove:
        remove_member(client, needed.remove)
        print(f"{name} has no data: its former identity {needed.remove} was struck off etcd's list", file=sys.stderr)
    if needed.add:
        # Whoever joins the only one that votes begins without a vote: until it runs, a quorum would be two of two.
        add_member(client, own_url, learner=sum(not member.learner for member in members) == 1)
        print(f"{name} was let into etcd as a new member at {own_url}", file=sys.stderr)
    client.delete(f"removed/{name}")  # whoever comes without data is another machine than the one that was removed
    return confirmed_members(client) if needed.add else members


def patient(settings: Settings, name: str, patience: float = PATIENCE) -> Beginning:
    """``beginning``, tried again for a while: etcd takes a new member only when all others have met for 5 s."""
    end = time.monotonic() + patience
    while True:
        try:
            return beginning(settings, name)
        except NotYet as error:
            run_folder(FORMATION.parent)
            FORMATION.write_text(f"{error}\n", encoding="utf-8")
            if time.monotonic() > end:
                raise
            time.sleep(1)


def write(config: Path, run_config: Path, begin: Beginning, owner: str) -> None:
    """The configuration with the two lines, readable by etcd only."""
    run_folder(run_config.parent)
    new = run_config.with_name(run_config.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    shutil.chown(new, owner, owner)
    new.write_text(config.read_text(encoding="utf-8") + begin.lines, encoding="utf-8")
    new.replace(run_config)


def main() -> int:
    """Write the configuration; 1 with one sentence if this etcd must not start now."""
    parser = argparse.ArgumentParser(description="decides how this member's etcd begins")
    parser.add_argument("--name", required=True, help="this member's name")
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE, help="JSON file that the states wrote")
    arguments = parser.parse_args()
    try:
        begin = patient(load(arguments.settings), arguments.name)
        write(Path(CONFIG_FILE), Path(RUN_CONFIG), begin, "etcd")
    except (NotYet, SettingsError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    FORMATION.unlink(missing_ok=True)
    ALONE.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
