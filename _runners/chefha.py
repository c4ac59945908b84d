"""
What concerns a whole chefha cluster and is done on the Salt master.

Thin over the library ``chefha_core``, which must be in the Python that runs the master (by ``salt-pip``).
"""

import importlib
import sys
from pathlib import Path

__version__ = "0.1.0"


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
    try:
        core = _core("secrets")
        places = __opts__.get("chefha") or {}
        store = core.Store(str(cluster), Path(places.get("secrets_dir", core.FOLDER)))
        if rotate:
            return {"folder": str(store.folder), "rotated": rotate, "next": store.rotate(str(rotate))}
        made = store.make()
    except ValueError as error:
        __context__["retcode"] = 1
        return {"error": f"chefha.secrets: {error}", "retcode": 1}  # an exception would be shown with its stack
    if not made:
        return {"folder": str(store.folder), "made": [], "comment": "all secrets were there already: nothing changed"}
    return {"folder": str(store.folder), "made": made, "next": core.APPLY}


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
