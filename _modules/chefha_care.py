"""
More of module ``chefha``: the services of a node, its logs, its states, and how chefha leaves it.
"""

import importlib

from salt.exceptions import CommandExecutionError, SaltInvocationError


def __virtual__():
    return "chefha"


def start(service="", timeout=120):
    """
    Start a service of this node, or all, and wait until it runs. PostgreSQL is started by leaderl; where leaderl does
    not run, only as a follower.

    service
        etcd, leaderl, postgresql, opensearch or elasticsearch, salt-minion; empty: all.
    timeout
        Seconds it may take.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.start etcd
    """
    return _control("start", service, timeout)


def stop(service="", timeout=120):
    """
    Stop a service, or all but salt-minion, and wait until it is down. Refused where it would cost the leadership: the
    leader hands over first. The last node of a cluster that is being stopped is stopped as it is.

    service
        As for ``start``.
    timeout
        Seconds it may take.

    CLI Example:

    .. code-block:: bash

        salt be2 chefha.stop
    """
    return _control("stop", service, timeout)


def restart(service="", timeout=120):
    """
    Restart a service, or all but salt-minion, one after the other; not the PostgreSQL of the leader.

    service
        As for ``start``.
    timeout
        Seconds it may take.

    CLI Example:

    .. code-block:: bash

        salt be2 chefha.restart leaderl
    """
    return _control("restart", service, timeout)


def once(service="", timeout=120):
    """
    Start a service without starting it again when it ends, until the next ``start``, ``stop``, ``restart`` or boot.

    service
        As for ``start``, but not postgresql.
    timeout
        Seconds it may take.

    CLI Example:

    .. code-block:: bash

        salt be2 chefha.once opensearch
    """
    return _control("once", service, timeout)


def hup(service="", timeout=120):
    """
    PostgreSQL reads its configuration anew. The other services know no hang-up, and for them it is refused.

    service
        postgresql, or empty.
    timeout
        Seconds it may take.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.hup postgresql
    """
    return _control("hup", service, timeout)


def term(service="", timeout=120):
    """
    SIGTERM to a service's main process; not to the PostgreSQL of the leader. systemd starts etcd and leaderl again.

    service
        As for ``start``; empty: all but salt-minion.
    timeout
        Seconds until the process must be gone.

    CLI Example:

    .. code-block:: bash

        salt be2 chefha.term leaderl
    """
    return _control("term", service, timeout)


def kill(service="", timeout=120):
    """
    SIGKILL to a service's main process; not to the PostgreSQL of the leader. systemd starts it again, leaderl
    PostgreSQL.

    service
        As for ``start``; empty: all but salt-minion.
    timeout
        Seconds until the process must be gone.

    CLI Example:

    .. code-block:: bash

        salt be2 chefha.kill etcd
    """
    return _control("kill", service, timeout)


def tail(service="", lines=50):
    """
    The last lines of the logs: of the journal, and of each log file. ``chef-backend-ctl tail`` follows them.

    service
        As for ``start``.
    lines
        How many of each, at most 10000.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.tail leaderl lines=100
    """
    if isinstance(lines, bool) or not isinstance(lines, int) or not 0 < lines <= 10000:
        raise SaltInvocationError(f"lines is {lines!r}; expected a whole number from 1 to 10000")
    words = _text("service", service), lines
    return __salt__["chefha.verb"]("services", lambda verbs, *node: verbs.tail(*node, *words))


def service_list():
    """
    The services of this node: unit, whether it starts at boot, how it is now.

    CLI Example:

    .. code-block:: bash

        salt '*' chefha.service_list
    """
    return __salt__["chefha.verb"]("services", lambda verbs, *node: verbs.service_list(*node))


def gather_logs(directory="/root"):
    """
    Logs, status, configuration without secrets and what the machine says of itself as one archive, readable by root
    only. Returns its path, its size in bytes, and what could not be had.

    directory
        Where on this node it is written.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.gather_logs
    """
    folder = _text("directory", directory)
    return __salt__["chefha.verb"]("care_logs", lambda verbs, *node: verbs.gather_logs(*node, folder))


def reconfigure():
    """
    Apply the states of this node. Returns what was changed; fails with the reasons if a state failed, and in words
    where no master answers.

    CLI Example:

    .. code-block:: bash

        salt be1 chefha.reconfigure
    """
    try:
        library = importlib.import_module("chefha_core.verbs.care_reconfigure")
    except ImportError as error:
        raise CommandExecutionError(f"the chefha library is not in Salt's Python on this minion: {error}") from error
    if problem := library.master_problem(__opts__):
        raise CommandExecutionError(problem)
    answer = __salt__["state.apply"]()
    try:
        return library.of_salt(answer)
    except library.VerbError as error:
        raise CommandExecutionError(str(error)) from error


def cleanse(yes=False):
    """
    Back to the state before the first configuration: services, units, configuration and **data** of this node are
    deleted, packages stay; the configuration is saved below /root. Refused while etcd knows the node as a member.

    yes
        Must be True.

    CLI Example:

    .. code-block:: bash

        salt be3 chefha.cleanse yes=True
    """
    _confirmed("cleanse", yes, "deletes the data of this node")
    return __salt__["chefha.verb"]("care", lambda verbs, *node: verbs.cleanse(*node))


def uninstall(yes=False):
    """
    Stop everything and remove chefha's units and firewall; data and configuration stay, a highstate brings it back.

    yes
        Must be True.

    CLI Example:

    .. code-block:: bash

        salt be3 chefha.uninstall yes=True
    """
    _confirmed("uninstall", yes, "stops all services of this node")
    return __salt__["chefha.verb"]("care", lambda verbs, *node: verbs.uninstall(*node))


def _control(verb, service, timeout):
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 3600:
        raise SaltInvocationError(f"timeout is {timeout!r}; expected seconds, more than 0 and at most 3600")
    words = verb, _text("service", service), float(timeout)
    return __salt__["chefha.verb"]("services", lambda verbs, *node: verbs.control(*node, *words, through_salt=True))


def _text(name, value):
    if not isinstance(value, str):
        raise SaltInvocationError(f"{name} is {value!r}; expected a text")
    return value


def _confirmed(verb, yes, does):
    if yes is not True:
        raise CommandExecutionError(f"{verb}: it {does}; nothing was changed: give yes=True if that is wanted")
