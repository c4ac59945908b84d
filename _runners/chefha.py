"""
What concerns a whole chefha cluster and is done on the Salt master: its secrets, and its verbs, each of which asks the
members through Salt and returns one answer as plain data.

Thin over the library ``chefha_core``, which must be in the Python that runs the master (by ``salt-pip``).

Members are found by the pillar as it stands on the master: the first accepted minion that pillar ``chefha:members``
names, in a pillar whose ``chefha:cluster`` is the one that is asked for. What a minion says of itself does not count.
"""

import contextlib
import importlib
import sys
from pathlib import Path

import salt.client
import salt.pillar
import salt.utils.args
import salt.utils.minions

__version__ = "0.1.0"
#: seconds for the answer of a minion that only looks; for the rest Salt asks whether it still runs
LOOK = {"timeout": 5, "gather_job_timeout": 5}


def __virtual__():
    return "chefha"


def secrets(cluster="chefha", rotate=""):
    """
    Make the secrets of a cluster, once: passwords, a token, and a certificate authority. They stay on the master, in a
    folder that only its user reads (master option ``chefha: {secrets_dir: …}``, usually /etc/salt/chefha), and reach
    the members by ext_pillar ``chefha_secrets``. What is there already is left as it is. No secret is printed.

    cluster
        The cluster's name, as pillar ``chefha:cluster`` has it.
    rotate
        A step of a rotation instead, while everything runs; apply the states of all members and front ends after each:
        ``passwords``; ``token``, then ``token_done``; ``certificates``; ``authority``, then ``certificates``, then
        ``authority_done``.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.secrets
        salt-run chefha.secrets cluster=chefha rotate=passwords
    """

    def made():
        core = _core("secrets")
        places = __opts__.get("chefha") or {}
        store = core.Store(str(cluster), Path(places.get("secrets_dir", core.FOLDER)))
        if rotate:
            return {"folder": str(store.folder), "rotated": rotate, "next": store.rotate(str(rotate))}
        fresh = store.make()
        if not fresh:
            comment = "all secrets were there already: nothing changed"
            return {"folder": str(store.folder), "made": [], "comment": comment}
        return {"folder": str(store.folder), "made": fresh, "next": core.APPLY}

    return _told("secrets", made)


def cluster_status(cluster="chefha"):
    """
    The whole cluster as one answer: all members are asked, the one who knows most tells, and whoever was not heard is
    in ``unanswered`` with the reason. Works while members, or the leader, are down.

    cluster
        The cluster's name, as pillar ``chefha:cluster`` has it.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.cluster_status chefha --out=json
    """
    return _told("cluster_status", lambda: _whole(cluster).cluster_status())


def status(cluster="chefha", simple=False):
    """
    The services of every member, as ``chefha.status`` has them.

    simple
        Each member is asked about itself only.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.status chefha simple=True
    """
    return _told("status", lambda: _whole(cluster).on_all("status", simple=simple))


def version(cluster="chefha"):
    """
    What is installed on every member.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.version chefha
    """
    return _told("version", lambda: _whole(cluster).on_all("version"))


def converge(cluster="chefha", timeout=30):
    """
    Every member comes to the role that etcd gives it, as the reactor has it done.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.converge chefha
    """
    return _told("converge", lambda: _whole(cluster).on_all("converge", timeout=timeout))


def promote(cluster, node, timeout=30):
    """
    Make a member the leader by a planned hand-over that loses nothing.

    node
        The member's name or address.
    timeout
        Seconds it may take; afterwards the old leader goes on.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.promote chefha be2
    """
    return _told("promote", lambda: _whole(cluster).on_any("promote", node=node, timeout=timeout))


def demote(cluster="chefha", timeout=30):
    """
    The leader, whichever it is, hands over to another member.

    timeout
        Seconds it may take; afterwards it goes on leading.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.demote chefha
    """
    return _told("demote", lambda: _whole(cluster).on_leader("demote", timeout=timeout))


def set_cluster_failover(cluster, state):
    """
    Automatic failover on or off for the whole cluster.

    state
        on, true, enabled, off, false or disabled.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.set_cluster_failover chefha off
    """
    return _told("set_cluster_failover", lambda: _whole(cluster).on_any("set_cluster_failover", state=state))


def force_leader(cluster="chefha", node="", **options):
    """
    A member becomes the leader where there is none.

    node
        Which; empty: the one whose data are the newest, of those that answer.
    options
        Those of ``chefha.force_leader``.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.force_leader chefha
    """
    options = _options(options)
    if node:
        return _told("force_leader", lambda: _whole(cluster).on(node, "force_leader", **options))
    return _told("force_leader", lambda: _whole(cluster).on_newest("force_leader", **options))


def remove_node(cluster, node, **options):
    """
    Take a member that is gone for good out of the cluster. Asked of the leader, or of another one that answers.

    node
        The member's name.
    options
        Those of ``chefha.remove_node``.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.remove_node chefha be3
    """
    options = _options(options)
    return _told("remove_node", lambda: _whole(cluster).on_any("remove_node", but=node, node=node, **options))


def backup(cluster="chefha", **options):
    """
    A backup, taken on the healthy follower that is least behind.

    options
        Those of ``chefha.backup``.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.backup chefha
    """
    return _told("backup", lambda: _whole(cluster).on_follower("backup", **_options(options)))


def restore(cluster, path, **options):
    """
    All data are replaced by those of an archive. Done on the leader, where ``path`` must be.

    path
        The archive.
    options
        Those of ``chefha.restore``.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.restore chefha /var/opt/chef-backup/chef-backup-2026-01-31-12-00-00.tar.zst
    """
    return _told("restore", lambda: _whole(cluster).on_leader("restore", path=path, **_options(options)))


def gather_logs(cluster="chefha", **options):
    """
    Logs and status of every member, each in an archive there.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.gather_logs chefha
    """
    return _told("gather_logs", lambda: _whole(cluster).on_all("gather_logs", **_options(options)))


def upgrade(cluster="chefha", packages=False, timeout=900):
    """
    Bring every member to what the pillar and the master's files say now, one after the other: the followers, each well
    again before the next; then a planned hand-over; then the member that led. Ends at the first step that fails, says
    where and why, and goes on from there when it is called again. Refused before anything is touched unless the whole
    cluster is well. A second run changes nothing. Each step is a line on stderr and an event of the job.

    packages
        Debian's packages of PostgreSQL (within its major version) and etcd, too, as new as the sources have them.
    timeout
        Seconds for one member.

    CLI Example:

    .. code-block:: bash

        salt-run chefha.upgrade chefha
    """

    def done():
        return _core("verbs.rolling").upgrade(_whole(cluster), bool(packages), float(timeout), _show)

    return _told("upgrade", done)


def _told(verb, do):
    """What a verb returns; why it did not come about as data, too: an exception would be shown with its stack."""
    refusals = [ValueError]
    with contextlib.suppress(ValueError):  # which `do` finds again, and says
        refusals.append(_core("verbs.reach").VerbError)
    try:
        return do()
    except tuple(refusals) as error:
        __context__["retcode"] = 1
        return {"error": f"chefha.{verb}: {error}", "retcode": 1, **getattr(error, "data", {})}


def _show(step):
    """A step of something that takes a while, to whoever waits at a terminal; stdout has the answer."""
    line = f"{step['seconds']:8.1f} s  {step['outcome']:11}  {step['node']}: {step['step']}"
    print(line, file=sys.stderr, flush=True)


def _options(options):
    """What the user gave, without what Salt adds to it."""
    return salt.utils.args.clean_kwargs(**options)


def _whole(cluster):
    """The cluster, its members, and the way to ask them; ValueError if no minion belongs to it."""
    accepted = set(salt.utils.minions.CkMinions(__opts__).check_minions("*")["minions"])
    whole = _core("verbs.whole")
    return whole.Whole(
        str(cluster), _members(str(cluster), accepted), lambda *asked: _ask(whole.Reply, accepted, *asked)
    )


def _ask(reply, accepted, names, function, how):
    """One function on some minions through the local client: what each said, or why it said nothing."""
    replies = {name: reply(problem="no minion of this name is accepted on the master") for name in names}
    able = [name for name in names if name in accepted]
    if not able:
        return replies
    patience = LOOK if function in ("chefha.cluster_status", "chefha.status", "chefha.version") else {}
    with salt.client.get_local_client(__opts__["conf_file"]) as client:
        said = client.cmd(able, function, tgt_type="list", kwarg=dict(how), full_return=True, **patience)
    for name in able:
        one = said.get(name)
        if not isinstance(one, dict) or "ret" not in one or one.get("out") == "no_return":
            replies[name] = reply(problem="its minion does not answer")
        elif one.get("retcode"):
            replies[name] = reply(problem=" ".join(str(one["ret"]).removeprefix("ERROR: ").split()))
        else:
            replies[name] = reply(data=one["ret"])
    return replies


def _members(cluster, accepted):
    """Names of a cluster's members: what pillar ``chefha:members`` has on the master for one of them."""
    seen, likely = set(), _likely()
    for name in sorted(accepted, key=lambda name: (name not in likely, name)):
        tree = _pillar(name).get("chefha")
        if not isinstance(tree, dict) or not isinstance(tree.get("members"), dict):
            continue
        if name in tree["members"] and tree.get("cluster", "chefha") == cluster:
            return sorted(tree["members"])
        seen.add(str(tree.get("cluster", "chefha")))
    known = f"; pillar chefha has {', '.join(sorted(seen))}" if seen else ""
    raise ValueError(f"no accepted minion is a member of a cluster {cluster!r}{known}")


def _likely():
    """Minions whose pillar had members when the master last cached it: only where to look first."""
    with contextlib.suppress(Exception):
        return set(salt.utils.minions.CkMinions(__opts__).check_minions("chefha:members", "pillar")["minions"])
    return set()


def _pillar(minion_id):
    """A minion's pillar as the master renders it, without the secrets."""
    opts = {**__opts__, "pillar": {}, "exclude_ext_pillar": [*__opts__.get("exclude_ext_pillar", []), "chefha_secrets"]}
    _, grains, _ = salt.utils.minions.get_minion_data(minion_id, __opts__)
    env = {"pillarenv": __opts__.get("pillarenv")}
    return salt.pillar.Pillar(opts, grains or {}, minion_id, __opts__.get("saltenv") or "base", **env).compile_pillar()


def _core(part):
    """A module of the library, in the version of this one; ValueError with one sentence."""
    if _library_version() != __version__:  # this process may have loaded an older one, or looked before it was there
        importlib.invalidate_caches()
        for module in [m for m in sys.modules if m == "chefha_core" or m.startswith("chefha_core.")]:
            del sys.modules[module]
    found = _library_version()
    if found is None:
        raise ValueError(
            f"the chefha library is not in the Python that runs the Salt master ({sys.executable}): "
            "install chefha's wheel there with salt-pip"
        )
    if found != __version__:
        raise ValueError(
            f"this runner is version {__version__} and chefha's library on the master is {found}: bring both to one "
            "version (salt-run saltutil.sync_all for the one, salt-pip for the other)"
        )
    return importlib.import_module(f"chefha_core.{part}")


def _library_version():
    try:
        return importlib.import_module("chefha_core").__version__
    except ImportError:
        return None
