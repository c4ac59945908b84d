"""
The verbs of a chefha cluster: status, bringing a member to its role and whether it is well, and configuration.

Every function is thin over the library ``chefha_core``; ``chef-backend-ctl`` on the node offers the same.
"""

import importlib
import sys
from pathlib import Path

import salt.pillar
from salt.exceptions import CommandExecutionError, SaltInvocationError

__version__ = "0.1.0"


def __virtual__():
    return "chefha"


def cluster_status():
    """
    The whole cluster: one row per member (role, PostgreSQL, lag, timeline, position, who holds the VIP), leader, epoch,
    failover switches. Asks everybody at once with a deadline of one second. On a front end: what can be known through
    PostgreSQL and search.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.cluster_status --out=json
    """
    return _verb("cluster_status").cluster_status(*_node())


def status(simple=False, service=""):
    """
    The services of this node as systemd sees them, what the cluster says of them, and the disks.

    simple
        Only this node is asked.
    service
        Only this one: postgresql, etcd, leaderl, salt-minion, and opensearch or elasticsearch.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.status simple=True
    """
    if not isinstance(simple, bool):
        raise SaltInvocationError(f"simple is {simple!r}; expected True or False")
    return _run("status", "status", *_node(), simple=simple, service=str(service))


def converge(epoch=0, timeout=30):
    """
    Bring this node to the role that etcd gives it now: the leader promotes and takes the VIP, the others follow it.
    What the reactor calls; harmless at any time, late or repeated: leaderl reads etcd again before it does anything.

    epoch
        The epoch that was seen to begin; one that is over changes nothing. 0: the present one.
    timeout
        Seconds to wait until the node has its role.

    CLI Example:

    .. code-block:: bash

        salt 'be*' chefha.converge
    """
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise SaltInvocationError(f"chefha.converge: epoch is {epoch!r}; expected a whole number, 0 or more")
    return _run("member", "converge", epoch, _seconds("timeout", timeout), _socket())


def version():
    """
    Versions of the library, these modules, PostgreSQL, etcd and Salt, and by which channel the modules came:
    ``synced`` from the file server or with the ``wheel``.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.version
    """
    synced = Path(__opts__["extension_modules"]) in Path(__file__).parents
    found = _core("verbs.version").version(_settings_or_none())
    return {
        **found,
        "modules": __version__,
        "salt": __grains__["saltversion"],
        "channel": "synced" if synced else "wheel",
    }


def validate_pillar():
    """
    Check pillar ``chefha`` of this minion; changes nothing. Returns the settings with defaults, secrets masked,
    or fails with one sentence that names the pillar path and what was expected.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.validate_pillar
    """
    try:
        # rendered anew: what the minion has in memory may be older than the master's files, and pillar.items masks it
        found = salt.pillar.get_pillar(__opts__, dict(__grains__), __opts__["id"], __opts__.get("saltenv"))
        pillar = found.compile_pillar()
        _core("masters").masters(pillar.get("chefha_masters"))
        settings = _core("layout.catalogue").checked(pillar.get("chefha"), __opts__["id"])
    except ValueError as error:
        raise CommandExecutionError(str(error)) from error
    return _verb("config").shown(settings)


def show_config():
    """
    Every setting of this node with its value, as the states wrote them, secrets masked.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.show_config
    """
    return _verb("config").shown(_node()[0])


def gen_sample_backend_config(format="pillar"):
    """
    Every setting with its default and its meaning.

    format
        ``pillar``: YAML for the pillar; ``chef-backend.rb``: the form of Chef Backend's own file.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.gen_sample_backend_config
    """
    if format not in ("pillar", "chef-backend.rb"):
        raise SaltInvocationError(f"format is {format!r}; expected pillar or chef-backend.rb")
    return _verb("schema").gen_sample_backend_config(format)


def gen_server_config(fqdn="", file=""):
    """
    The chef-server.rb of one front end. Secrets in it are masked, because answers stay in the job cache: ``file``
    has them, and so has ``chef-backend-ctl gen-server-config``.

    fqdn
        Host name of the front end.
    file
        Where to write it on this node, readable by its owner only; its path is returned.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.gen_server_config chef.example.com file=/root/chef-server.rb
    """
    return _run("gen_server_config", "gen_server_config", _node()[0], str(fqdn), str(file), mask=True)


def backend_problem():
    """
    Why this front end cannot use the back end (PostgreSQL to write, search), as a sentence; empty if it can.

    CLI Example:

    .. code-block:: bash

        salt fe1 chefha.backend_problem
    """
    return _verb("frontend").backend_problem(_node()[0])


def await_backend(timeout=900):
    """
    Wait until this front end can use the back end; returns the seconds it took.

    CLI Example:

    .. code-block:: bash

        salt fe1 chefha.await_backend timeout=60
    """
    return _run("member", "wait_until_well", backend_problem, _seconds("timeout", timeout))


def etcd_problem():
    """
    Why etcd does not serve this node, as a sentence; empty if it does.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.etcd_problem
    """
    return _verb("member").etcd_problem(*_node())


def etcd_access():
    """
    etcd's users as the pillar wants them, and authentication on; returns what was changed, nothing if all was so.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.etcd_access
    """
    return _run("etcd_access", "establish", *_node())


def restart_in_turn(unit, timeout=300):
    """
    Restart a service of this node while no other member restarts its own, and only if theirs are well. Returns what
    happened.

    unit
        chefha-etcd.service, or another of which ``chefha_core.verbs.in_turn`` knows when it is well.
    timeout
        Seconds it may take, the wait for the other members included.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.restart_in_turn chefha-etcd.service
    """
    return _run("in_turn", "restart_in_turn", *_node(), str(unit), _seconds("timeout", timeout))


def member_problem():
    """
    Why this node is neither the leader nor a streaming follower, as a sentence; empty if it is.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.member_problem
    """
    return _verb("member").member_problem(path=_socket())


def search_problem():
    """
    Why this node's search is in no cluster with a majority, as a sentence; empty if it is, or where there is no search.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.search_problem
    """
    return _verb("member").search_problem(*_node())


def await_etcd(timeout=120):
    """
    Wait until etcd serves this node; returns the seconds it took.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.await_etcd timeout=60
    """
    return _run("member", "wait_until_well", etcd_problem, _seconds("timeout", timeout))


def await_member(timeout=300):
    """
    Wait until this node is the leader or a streaming follower; returns the seconds it took.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.await_member timeout=60
    """
    return _run("member", "wait_until_well", member_problem, _seconds("timeout", timeout))


def await_search(timeout=180):
    """
    Wait until this node's search is in a cluster with a majority; returns the seconds it took.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.await_search timeout=60
    """
    return _run("member", "wait_until_well", search_problem, _seconds("timeout", timeout))


def verb(group, action):
    """
    For the other files of this module: ``action`` is called with a part of the library, this node's settings and its
    name. It is a function, which nobody can hand over from a command line or in a state: there each verb has a function
    of its own, which asks for its ``yes`` and shows no secret.
    """
    if not callable(action):
        raise SaltInvocationError("chefha.verb is not for the command line; call the verb itself, such as chefha.stop")
    return _explained(lambda: action(_verb(group), *_node()))


def _run(group, name, *args, **kwargs):
    """A verb of the library, its refusal as Salt's error."""
    return _explained(lambda: getattr(_verb(group), name)(*args, **kwargs))


def _explained(action):
    try:
        return action()
    except _core("verbs.reach").VerbError as error:
        raise CommandExecutionError(str(error)) from error


def _verb(group):
    return _core(f"verbs.{group}")


def _node():
    """Settings of this node as the states wrote them, and its name."""
    try:
        settings = _core("settings")
        return settings.load(Path(_places().get("settings", settings.SETTINGS_FILE))), __opts__["id"]
    except ValueError as error:
        raise CommandExecutionError(str(error)) from error


def _places():
    """Minion option ``chefha``: other places of ``settings`` and ``socket`` than the usual ones, for tests."""
    return __opts__.get("chefha") or {}


def _socket():
    """Path of leaderl's socket, None for the usual one."""
    return Path(_places()["socket"]) if "socket" in _places() else None


def _settings_or_none():
    try:
        return _node()[0]
    except CommandExecutionError:
        return None


def _seconds(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 3600:
        raise SaltInvocationError(f"{name} is {value!r}; expected seconds, more than 0 and at most 3600")
    return float(value)


def _core(part):
    """A module of the library, in the version of these modules."""
    found = _library_version()
    if found != __version__:  # the minion's own process may have loaded an older one
        importlib.invalidate_caches()
        for module in [m for m in sys.modules if m == "chefha_core" or m.startswith("chefha_core.")]:
            del sys.modules[module]
        found = _library_version()
    if found is None:
        raise CommandExecutionError(
            "the chefha library is not in Salt's Python on this minion; apply its states, or install it with salt-pip"
        )
    if found != __version__:
        raise CommandExecutionError(
            f"chefha's modules are version {__version__} and its library is {found} on this minion: apply its states, "
            "which bring both to one version"
        )
    return importlib.import_module(f"chefha_core.{part}")


def _library_version():
    try:
        return importlib.import_module("chefha_core").__version__
    except ImportError:
        return None
