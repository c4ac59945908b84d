"""uninstall and cleanse: a node without chefha's services, and one without anything of chefha's."""

from __future__ import annotations

import contextlib
import datetime
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chefha_core.layout.etcd import peer_url
from chefha_core.layout.firewall import FILE as FIREWALL_FILE
from chefha_core.layout.firewall import UNIT as FIREWALL_UNIT
from chefha_core.layout.search import SYSCTL_FILE
from chefha_core.layout.wish import CONFIG, DATA, UNITS
from chefha_core.parts import systemd
from chefha_core.parts.etcd import EtcdClient, EtcdError
from chefha_core.parts.etcd_members import confirmed_members
from chefha_core.parts.postgres_tools import Places
from chefha_core.parts.systemd import UnitError
from chefha_core.search_engine import CACHE
from chefha_core.settings import Settings
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client
from chefha_core.verbs.services import control, leadership, services_of
from chefha_core.verbs.steps import OnStep, StepLog, nobody_looks

SAVED = "/root/chefha-cleanse-{at:%Y-%m-%d-%H-%M-%S}"
RUN = "/run/chefha"
BEACON = "/etc/salt/minion.d/chefha-beacon.conf"
MINION_DROP_IN = f"{UNITS}/salt-minion.service.d/chefha.conf"
#: seconds that all services together may take to stop
STOP = 400.0


def uninstall(settings: Settings, name: str, on_step: OnStep = nobody_looks) -> dict[str, Any]:
    """Stop everything and take away chefha's units and firewall; data and configuration stay. The next highstate brings
    it all back. VerbError where ``stop`` would be refused."""
    work = StepLog(on_step)
    _stop(settings, name, "uninstall", work)
    return {"removed": [str(path) for path in _remove_units(settings, name, work)], "steps": work.rows}


def cleanse(settings: Settings, name: str, on_step: OnStep = nobody_looks) -> dict[str, Any]:
    """Back to the state before the first configuration, packages excepted: the configuration is saved below /root, then
    services, units, configuration and data go. VerbError while etcd knows this node as a member, or does not answer.
    """
    refused = membership_problem(settings, name)
    if refused:
        raise VerbError(refused)
    work = StepLog(on_step)
    saved = Path(SAVED.format(at=datetime.datetime.now(datetime.UTC)))
    try:
        shutil.copytree(CONFIG, saved / "etc-chefha")
        saved.chmod(0o700)
        for unit in _unit_files(settings, name):
            shutil.copy2(unit, saved)
    except OSError as error:
        raise VerbError(
            f"cleanse: the configuration cannot be saved in {saved}: {error}; nothing was removed"
        ) from None
    work.done(f"configuration saved in {saved}")
    _stop(settings, name, "cleanse", work)
    gone = list(_remove_units(settings, name, work))
    for path in doomed(settings, name):
        if path.exists() or path.is_symlink():
            try:
                _remove(path)
            except OSError as error:
                raise VerbError(f"cleanse: {path} cannot be removed: {error}; mend that and run it again") from None
            gone.append(path)
            work.done(f"{path} removed")
    return {"saved": str(saved), "removed": [str(path) for path in gone], "steps": work.rows}


def membership_problem(settings: Settings, name: str) -> str:
    """Why this node must not be cleansed: it is a member still, or nobody can say; "" if it is none."""
    if name not in settings.members:
        return ""
    leads, _ = leadership(settings, name, postgresql_runs=False)
    if leads:
        return f"cleanse: {name} leads the cluster; hand over with chef-backend-ctl demote, then remove it from another"
    client = etcd_client(settings, name, PATIENCE)
    try:
        if settings.etcd_endpoints:
            member = _is_member(client, name)
        else:
            own = peer_url(settings, name)
            member = any(one.name == name or own in one.peer_urls for one in confirmed_members(client))
    except (EtcdError, OSError) as error:
        return (
            f"cleanse: etcd does not answer with a quorum ({error}), so nobody can say whether {name} is a member; "
            "nothing was changed. chef-backend-ctl uninstall stops everything and keeps the data"
        )
    finally:
        client.close()
    if member:
        prefix = f"/chefha/{settings.cluster}/"
        last = f"; for the last one of all, delete what etcd has below {prefix}" if settings.etcd_endpoints else ""
        return (
            f"cleanse: {name} is still a member of the cluster {settings.cluster}; stop it (chef-backend-ctl stop), "
            f"then run on another member: chef-backend-ctl remove-node {name}{last}"
        )
    return ""


def _is_member(client: EtcdClient, name: str) -> bool:
    """Whether the cluster in somebody's own etcd counts this node: until remove-node has left its mark, or all keys of
    the cluster are gone. The report of a member says nothing: it is gone as soon as leaderl is stopped."""
    keys = client.range().kvs
    return bool(keys) and f"removed/{name}" not in keys


def doomed(settings: Settings, name: str) -> list[Path]:
    """What cleanse removes besides units: data, traces, and last the configuration that says where they are."""
    found = [Path(DATA), Path(RUN), Path(BEACON)]
    if name in settings.members:
        places = Places.of(settings)
        lock = places.home / ".lock"
        found += [places.data, places.fresh, places.old, places.rewinding, places.role_conf, places.pgpass, lock]
        found += [places.restored, *places.home.glob(places.replaced().name)]
        if not settings.etcd_endpoints:
            etcd = Path(settings.etcd.data_dir)
            found += [etcd, *etcd.parent.glob(f"{etcd.name}.before-*")]
        if settings.search.flavor != "none":
            search = settings.search
            found += [Path(search.data_dir), Path(search.log_dir), Path(CACHE), Path(SYSCTL_FILE)]
    return [*found, Path(CONFIG)]


def what_cleanse_does(settings: Settings, name: str) -> str:
    """For the question before it."""
    paths = ", ".join(str(path) for path in doomed(settings, name) if path.exists())
    return (
        f"all services of this node stop, and this is deleted for good (the configuration is saved in /root): {paths}"
    )


UNINSTALL_DOES = "all services of this node stop and are no longer started; data and configuration stay"


def _stop(settings: Settings, name: str, verb: str, work: StepLog) -> None:
    try:
        control(settings, name, "stop", timeout=STOP, on_step=lambda row: work.done(row["step"], row["outcome"]))
    except VerbError as error:
        raise VerbError(f"{verb}: {error}; nothing was removed") from None


def _unit_files(settings: Settings, name: str) -> Iterator[Path]:
    """chefha's own units on this node, and its drop-in of the minion's."""
    units = [unit for unit in services_of(settings, name).values() if unit.startswith("chefha-")]
    for path in [*(Path(UNITS, unit) for unit in [*units, FIREWALL_UNIT]), Path(MINION_DROP_IN)]:
        if path.is_file():
            yield path


def _remove_units(settings: Settings, name: str, work: StepLog) -> list[Path]:
    gone = list(_unit_files(settings, name))
    for path in gone:
        if path.name.startswith("chefha-"):
            with contextlib.suppress(UnitError):  # one that is not enabled, or not loaded
                systemd.systemctl("disable", "--now", path.name)
        path.unlink()
    with contextlib.suppress(OSError):
        Path(MINION_DROP_IN).parent.rmdir()
    Path(FIREWALL_FILE).unlink(missing_ok=True)
    try:
        systemd.systemctl("daemon-reload")
    except UnitError as error:
        raise VerbError(f"the units are gone, and systemd was not told: {error}") from None
    work.done("units and firewall removed")
    return gone


def _remove(path: Path) -> None:
    """A file or a folder, and where a link leads; of a folder that is a file system's own what is in it."""
    if path.is_symlink() and path.exists():
        _remove_tree(path.resolve())
    _remove_tree(path)


def _remove_tree(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for inner in path.iterdir():
        _remove_tree(inner)
    try:
        path.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:  # something is mounted there
            raise
