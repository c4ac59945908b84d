"""
States that wait until a member of a chefha cluster, or a front end, is well. Salt merges them into module ``chefha``.

They ask the execution module, and need nothing of the library themselves.
"""

from salt.exceptions import CommandExecutionError


def __virtual__():
    return "chefha"


def etcd_healthy(name, timeout=120):
    """etcd has a quorum and answers, within ``timeout`` seconds."""
    return _await(name, "chefha.await_etcd", "chefha.etcd_problem", timeout)


def member_healthy(name, timeout=300):
    """This member is the leader or follows it by streaming, within ``timeout`` seconds."""
    return _await(name, "chefha.await_member", "chefha.member_problem", timeout)


def search_healthy(name, timeout=180):
    """This member's search is in a cluster with a majority, within ``timeout`` seconds; also true without search."""
    return _await(name, "chefha.await_search", "chefha.search_problem", timeout)


def backend_reachable(name, timeout=900):
    """The back end's PostgreSQL takes writes from this front end and its search answers, within ``timeout`` seconds."""
    return _await(name, "chefha.await_backend", "chefha.backend_problem", timeout)


def _await(name, wait, look, timeout):
    """True if all is well; in test mode None if it is not yet, otherwise wait for it."""
    ret = {"name": name, "result": True, "changes": {}, "comment": "all is well"}
    try:
        problem = _problem(look)
        if problem and __opts__["test"]:
            return {**ret, "result": None, "changes": {name: "would be waited for"}, "comment": problem}
        if problem:
            __salt__[wait](timeout=timeout)
            return {**ret, "changes": {name: {"old": problem, "new": "all is well"}}}
    except CommandExecutionError as error:
        return {**ret, "result": False, "comment": str(error)}
    return ret


def _problem(look):
    """What stands in the way now, also where nothing is laid out yet; "" if nothing."""
    try:
        return __salt__[look]()
    except (CommandExecutionError, ImportError) as error:
        if not __opts__["test"]:
            raise
        return str(error)
