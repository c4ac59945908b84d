"""
The verb upgrade of a chefha cluster; see ``chefha.py`` for the others.

It needs no version check: the shell command is always of the library that is installed, whatever modules are synced.
"""

import json

from salt.exceptions import CommandExecutionError, SaltInvocationError

CTL = "/usr/local/bin/chef-backend-ctl"
#: seconds for what the command does beside its own time-out
REST = 60


def __virtual__():
    return "chefha"


def upgrade(failover=False, packages=False, check=False, timeout=900):
    """
    This member becomes what the pillar and the master's files say now: library, modules, configuration, units. Refused
    unless the whole cluster is well, and on the leader without ``failover``. Ends when the cluster is well again.
    ``salt-run chefha.upgrade`` does so with all members in the right order.

    failover
        If this member leads and anything would change, hand over first.
    packages
        Debian's packages of PostgreSQL (within its major version) and etcd, too, as new as the sources have them.
    check
        Only say whether it could begin, and who leads.
    timeout
        Seconds it may take.

    CLI Example:

    .. code-block:: bash

        salt be2 chefha.upgrade
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 7200:
        raise SaltInvocationError(f"timeout is {timeout!r}; expected seconds, more than 0 and at most 7200")
    switches = {"--failover": failover, "--packages": packages, "--check": check}
    command = [CTL, "upgrade", "--json", "--timeout", str(timeout), *(name for name, on in switches.items() if on)]
    done = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True, timeout=int(timeout) + REST)
    try:
        said = json.loads(done["stdout"])
    except ValueError:
        words = " ".join((done["stderr"] or done["stdout"]).split())
        raise CommandExecutionError(f"{' '.join(command)} ended with {done['retcode']}: {words}") from None
    if done["retcode"]:
        raise CommandExecutionError(said.get("error", "no reason given"))
    return said
