"""
States that lay out a member of a chefha cluster.

Each is thin over the library ``chefha_core``, which says, as data, what is wanted; Salt's own states carry it out.
The library is taken from Salt's Python, or, where pillar ``chefha:wheel`` names another one than is installed (or none
is), straight out of that wheel: so a bare minion is laid out, and tested with ``test=True``, in one run.

.. code-block:: yaml

    chefha_settings:
      chefha.settings: []
"""

import hashlib
import importlib
import importlib.metadata
import json
import sys
from pathlib import Path

from salt.exceptions import CommandExecutionError

__version__ = "0.1.0"
FILES = "salt://chefha/minion/files"
LEADERL = "chefha-leaderl.service"
#: marks of what a change has to be followed by, a unit's restart or the end of a layout, should a run fail before that
DUE = Path("/run/chefha/restart-due")
#: says what is so anyway: Salt cannot take up a beacon without any setting while it runs
BEACON = [{"disable_during_state_run": False}]


def __virtual__():
    return "chefha"


def checked(name):
    """
    The pillar is right: nothing is changed, and everything else requires this. Put it first.

    .. code-block:: yaml

        chefha_checked:
          chefha.checked:
            - order: 1
            - failhard: True
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the pillar is right"}
    try:
        _core("masters").masters(__pillar__.get("chefha_masters"))
        settings = _core("layout.catalogue").checked(__pillar__.get("chefha"), __opts__["id"])
        if problem := _core("data_version").other_major(settings):
            raise ValueError(problem)
    except (ValueError, CommandExecutionError) as error:
        # why the master handed out no secrets (ext_pillar chefha_secrets) says more than that they are missing
        why = [str(error), *([f"the master says: {said}"] if (said := __pillar__.get("chefha_problem")) else [])]
        return {**ret, "result": False, "comment": "; ".join(why)}
    return ret


def library(name):
    """
    The library of pillar ``chefha:wheel`` is installed into Salt's Python, with dependencies from the same folder only.

    .. code-block:: yaml

        chefha_library:
          chefha.library: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "the library is installed"}
    try:
        wheel = _wanted_wheel()
        path = _wheel(wheel) if wheel else ""
        if not wheel or _sha256(path) == _installed_sha256():
            _core("settings")
            return ret
        change = {"chefha library": {"old": _installed_version() or "not installed", "new": wheel}}
        if __opts__["test"]:
            return {**ret, "result": None, "changes": change, "comment": f"{wheel} would be installed"}
        if __salt__["service.status"](LEADERL):
            _is_due(DUE / LEADERL)
        _install(path)
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    return {**ret, "changes": change, "comment": f"{wheel} installed"}


def settings(name):
    """The checked pillar stands in /etc/chefha/settings.json, for leaderl, the beacon and the verbs."""
    return _lay_out(name, "settings", reads_it=LEADERL)


def minion(name):
    """systemd restarts salt-minion when it dies."""
    return _lay_out(name, "minion")


def firewall(name):
    """
    This machine is closed but for the ports of docs/ports.md; pillar chefha:firewall:enabled: false leaves nothing of
    it. Salt's ports stay open where a salt-master is enabled, or pillar chefha_masters names this minion.
    """
    masters = __pillar__.get("chefha_masters", ["master"])
    return _lay_out(name, "firewall", master=__salt__["service.enabled"]("salt-master"), masters=masters)


def packages(name):
    """PostgreSQL and etcd are installed, and none of Debian's own services for them can start."""
    return _lay_out(name, "packages")


def tls_files(name):
    """The cluster's certificates stand where etcd, PostgreSQL and leaderl read them."""
    return _lay_out(name, "tls_files")


def etcd_member(name):
    """This member's etcd runs. It may still be waiting for the others: see ``etcd_healthy``."""
    return _lay_out(name, "etcd_member")


def postgresql(name):
    """
    PostgreSQL's files and unit are in place; leaderl decides what runs. Fails where pillar
    ``chefha:postgresql:client_networks`` shuts a front end or a member out.
    """
    try:
        settings = _core("layout.catalogue").checked(__pillar__.get("chefha"), __opts__["id"])
        problem = _core("client_access").shut_out(settings, _interfaces())
    except (ValueError, CommandExecutionError) as error:
        problem = str(error)
    if problem:
        return {"name": name, "result": False, "changes": {}, "comment": problem}
    return _lay_out(name, "postgresql")


def _interfaces():
    """This machine's own addresses, each with its network."""
    found = [one for about in __salt__["network.interfaces"]().values() for one in about.get("inet", [])]
    return [f"{one['address']}/{one['netmask']}" for one in found if one.get("netmask")]


def search(name):
    """This member's search engine runs. It may still be waiting for the others: see ``search_healthy``."""
    return _lay_out(name, "search")


def leaderl(name):
    """leaderl runs and is enabled; restarted when its settings or its library changed (harmless: no failover)."""
    return _lay_out(name, "leaderl")


def frontend_base(name):
    """The authority's certificate and chef-backend-ctl are where a front end needs them."""
    return _lay_out(name, "frontend_base")


def frontend_package(name):
    """The package of Chef Infra Server is installed, from pillar chefha:frontend:source or :repository."""
    return _lay_out(name, "frontend_package")


def frontend_config(name):
    """chef-server.rb is in place, readable by root only."""
    return _lay_out(name, "frontend_config")


def frontend_carried(name, timeout=1800):
    """Secrets and migration level of the first front end are here; waits until it has published them."""
    return _front_end(name, "carry", timeout=timeout)


def frontend_reconfigured(name, timeout=1800):
    """Chef has configured itself with what is wanted now; runs only if something changed or it never succeeded."""
    return _front_end(name, "reconfigure", timeout=timeout)


def frontend_published(name):
    """Secrets and migration level of the first front end are in the database, for the others."""
    return _front_end(name, "publish")


def _front_end(name, verb, **how):
    """One of the library's steps of a front end."""
    # skip_watch: what failed is not tried a second time because something that it watches has changed
    ret = {"name": name, "result": True, "changes": {}, "comment": "as wanted"}
    failed = {**ret, "result": False, "skip_watch": True}
    try:
        settings = _core("layout.catalogue").checked(__pillar__.get("chefha"), __opts__["id"])
        steps = _core("verbs.frontend")
        front = steps.FrontEnd(settings, __opts__["id"])
        changes = getattr(steps, verb)(front, test=__opts__["test"], **how)
    except ImportError as error:
        return {**ret, "result": None, "comment": f"cannot be seen before the library is installed: {error}"}
    except (ValueError, CommandExecutionError) as error:
        return {**failed, "comment": str(error)}
    except OSError as error:  # such as a disk that is full
        return {**failed, "comment": f"a file cannot be read or written: {error.filename or name}: {error.strerror}"}
    except _core("verbs.reach").VerbError as error:
        # in test mode what it waits for may come about in the same run
        return {**ret, "result": None, "comment": str(error)} if __opts__["test"] else {**failed, "comment": str(error)}
    if changes and __opts__["test"]:
        return {**ret, "result": None, "changes": changes, "comment": f"would change: {', '.join(changes)}"}
    return {**ret, "changes": changes, "comment": f"changed: {', '.join(changes)}" if changes else ret["comment"]}


def mod_watch(name, sfun=None, **kwargs):
    """Restart leaderl, or let Chef configure itself again, when a state that it watches changed something."""
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    if sfun == "frontend_reconfigured":
        return _front_end(name, "reconfigure", timeout=kwargs.get("timeout", 1800), anyway=True)
    if sfun != "leaderl":
        return {**ret, "comment": f"chefha.{sfun} has nothing to restart"}
    change = {LEADERL: "restarted"}
    if __opts__["test"]:
        return {**ret, "result": None, "changes": change, "comment": f"{LEADERL} would be restarted"}
    return {**ret, "result": __salt__["service.restart"](LEADERL), "changes": change, "comment": f"{LEADERL} restarted"}


def beacon(name):
    """The beacon chefha_leader is configured, and is taken up by the running minion without a restart."""
    path = Path(__opts__["conf_file"]).parent / Path(__opts__["default_include"]).parent / "chefha-beacon.conf"
    text = json.dumps({"beacons": {"chefha_leader": BEACON}})
    ret = __states__["file.managed"](name=str(path), contents=text, mode="0644")
    if not ret["result"] or __opts__["test"] or not ret["changes"]:
        return {**ret, "name": name}
    # Salt's beacons.add waits for an answer on a bus that salt-call may not have; the file counts at the next start.
    told = {"func": "add", "name": "chefha_leader", "beacon_data": BEACON}
    taken_up = __salt__["event.fire"](told, "manage_beacons")
    how = "taken up by the minion" if taken_up else "taken up when the minion starts"
    return {**ret, "name": name, "changes": {**ret["changes"], "beacon": how}}


def etcd_access(name):
    """
    etcd asks everybody for a user: the members have one for the cluster's own keys, and root changes members and users.
    Any number of members may carry this out at once. Where etcd is the user's own nothing is set up.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "as wanted"}
    test = __opts__["test"]
    try:
        settings = _core("layout.catalogue").checked(__pillar__.get("chefha"), __opts__["id"])
        verb = _core("verbs.etcd_access")
    except (ValueError, CommandExecutionError) as error:
        return {**ret, "result": False, "comment": str(error)}
    try:
        changes = (verb.pending if test else verb.establish)(settings, __opts__["id"])
    except verb.VerbError as error:
        if test:  # before the first highstate there is no etcd to ask
            return {**ret, "result": None, "changes": {"etcd": "would be looked at"}, "comment": str(error)}
        return {**ret, "result": False, "comment": str(error)}
    if not changes:
        return ret
    comment = "would change" if test else "changed"
    return {**ret, "result": None if test else True, "changes": {"etcd": changes}, "comment": comment}


def _lay_out(name, state, reads_it="", **facts):
    """
    The wishes of one layout, from the library, carried out in order; the first failure ends it. ``reads_it``: a unit
    of another layout that reads these files when it starts.
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "as wanted"}
    try:
        wishes = _core("layout.catalogue").layout(state, __pillar__.get("chefha"), __opts__["id"], **facts)
    except (ValueError, CommandExecutionError) as error:
        return {**ret, "result": False, "comment": str(error)}
    units = [unit for unit in (reads_it, *(wish.restart for wish in wishes)) if unit]
    unfinished = DUE / f"{state}.unfinished"
    for wish in wishes:
        if wish.after_change and not (ret["changes"] or unfinished.exists()):
            continue
        one = _carry_out(wish, bool(ret["changes"]))
        target = wish.arguments["name"]
        if one["result"] is False:
            return {**ret, "result": False, "comment": f"{wish.state} {target}: {one['comment']}"}
        if one["result"] is None or one["changes"]:
            ret["changes"][target] = one["changes"] or one["comment"]
            if not (__opts__["test"] or wish.restart):
                _is_due(unfinished, *(DUE / unit for unit in units if __salt__["service.status"](unit)))
        if one["result"] is None:
            ret["result"] = None
    if not __opts__["test"]:
        unfinished.unlink(missing_ok=True)
    if ret["changes"]:
        ret["comment"] = f"{'would change' if __opts__['test'] else 'changed'}: {', '.join(ret['changes'])}"
    return ret


def _carry_out(wish, changed):
    """One of Salt's states, and the restart of a service whose files changed while it was running already."""
    unit = wish.restart
    if wish.only_if and __salt__["cmd.retcode"](wish.only_if, python_shell=True, ignore_retcode=True):
        return {"result": True, "changes": {}, "comment": "not needed"}
    if wish.state == "service.dead" and not __salt__["service.status"](wish.arguments["name"]):
        return {"result": True, "changes": {}, "comment": "not running"}  # where there is no unit, test mode says None
    was_running = bool(unit) and __salt__["service.status"](unit)
    one = __states__[wish.state](**wish.arguments)
    if not unit or one["result"] is False:
        return one
    if was_running and (changed or (DUE / unit).exists()):
        if __opts__["test"]:
            return {**one, "result": None, "changes": {unit: "would be restarted"}}
        try:
            one = {**one, "changes": {unit: _restarted(unit, wish.in_turn)}}
        except CommandExecutionError as error:
            return {**one, "result": False, "comment": str(error)}
    if not __opts__["test"]:
        (DUE / unit).unlink(missing_ok=True)
    return one


def _restarted(unit, in_turn):
    if in_turn:
        return __salt__["chefha.restart_in_turn"](unit)
    if not __salt__["service.restart"](unit):
        raise CommandExecutionError(f"{unit} could not be restarted")
    return "restarted"


def _is_due(*marks):
    """Remember on the disk what has to follow a change, until it is done: a unit that runs reads its files anew."""
    DUE.mkdir(parents=True, exist_ok=True)
    DUE.parent.chmod(0o755)  # of leaderl, whose users must get in
    for mark in marks:
        mark.touch()


def _core(part):
    """A module of the library, in the version of these states."""
    wheel = _wanted_wheel()
    path = _wheel(wheel) if wheel else ""
    if path and _sha256(path) != _installed_sha256():
        if path not in sys.path:
            sys.path.insert(0, path)
            _forget()
    elif _version_of_library() != __version__:
        _forget()
    found = _version_of_library()
    if found is None:
        raise CommandExecutionError(
            f"the chefha library is not in Salt's Python ({sys.executable}) and pillar chefha:wheel names no wheel; "
            "set it, or install the library with salt-pip"
        )
    if found != __version__:
        raise CommandExecutionError(
            f"chefha's states are version {__version__} and its library is {found}: "
            "bring both to one version (saltutil.sync_all for the one, pillar chefha:wheel or salt-pip for the other)"
        )
    return importlib.import_module(f"chefha_core.{part}")


def _version_of_library():
    """Version of the library as this process imports it, None without one."""
    try:
        return importlib.import_module("chefha_core").__version__
    except ImportError:
        return None


def _forget():
    """Let the next import look at the disk again: the minion's own process may have loaded an older library."""
    importlib.invalidate_caches()
    for module in [m for m in sys.modules if m == "chefha_core" or m.startswith("chefha_core.")]:
        del sys.modules[module]


def _wanted_wheel():
    """Pillar chefha:wheel, "" without one. The library says what else is wrong with the pillar, but may be in there."""
    tree = __pillar__.get("chefha", {})
    if not isinstance(tree, dict):  # what it is instead is not shown: secrets may stand in it
        kind = {type(None): "empty", str: "a text", list: "a list"}.get(type(tree), f"a {type(tree).__name__}")
        raise CommandExecutionError(
            f"pillar chefha is {kind}; expected a mapping with at least members, vip and secrets"
        )
    return tree.get("wheel") or ""


def _wheel(wheel):
    """Path of the wheel, fetched from the file server, once per run."""
    if __context__.get("chefha_wheel", ("", ""))[0] != wheel:
        path = __salt__["cp.cache_file"](f"{FILES}/{wheel}")
        if not path:
            raise CommandExecutionError(f"pillar chefha:wheel names {wheel}, which is not at {FILES}; put it there")
        __context__["chefha_wheel"] = (wheel, path)
    return __context__["chefha_wheel"][1]


def _sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _distribution():
    """What pip knows of the installed library, None if nothing. A wheel on sys.path is no installation."""
    for found in importlib.metadata.distributions(name="chefha"):
        if found.read_text("INSTALLER"):
            return found
    return None


def _installed_version():
    found = _distribution()
    return found.version if found else ""


def _installed_sha256():
    """The sha256 of the wheel that the library was installed from, as pip wrote it down (PEP 610)."""
    found = _distribution()
    source = json.loads((found.read_text("direct_url.json") if found else None) or "{}")
    return source.get("archive_info", {}).get("hashes", {}).get("sha256", "")


def _install(path):
    """pip, without any index: the wheel, and what it needs from wheels beside it on the file server."""
    __salt__["cp.cache_dir"](FILES, include_pat="*.whl")
    onedir = getattr(sys, "RELENV", None)
    pip = [str(Path(onedir) / "salt-pip")] if onedir else [sys.executable, "-m", "pip"]
    command = [*pip, "install", "--no-index", "--find-links", str(Path(path).parent), "--no-input", "--quiet"]
    for options in ([], ["--force-reinstall", "--no-deps"]):  # the second replaces another build of the same version
        done = __salt__["cmd.run_all"]([*command, *options, path], python_shell=False)
        if done["retcode"]:
            raise CommandExecutionError(f"pip could not install {Path(path).name}: {done['stderr'].strip()[-400:]}")
        importlib.invalidate_caches()
        if _installed_sha256() == _sha256(path):
            break
    sys.path[:] = [entry for entry in sys.path if entry != path]
    _forget()
