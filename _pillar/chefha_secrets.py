"""
Hands the secrets that ``salt-run chefha.secrets`` made to the members and front ends of a chefha cluster.

In the master's configuration:

.. code-block:: yaml

    ext_pillar:
      - chefha_secrets: {}

A minion gets what its place in pillar ``chefha:members`` or ``chefha:frontends`` entitles it to, and that is decided by
the pillar as it stands on the master: a minion may send pillar data of its own with its request, and so could name
itself a member.
"""

import importlib
import logging
import sys
from pathlib import Path

import salt.pillar

__version__ = "0.1.0"
log = logging.getLogger(__name__)
#: pillar key with the reason why there are no secrets; the state chefha.checked shows it
PROBLEM = "chefha_problem"


def __virtual__():
    return "chefha_secrets"


def ext_pillar(minion_id, pillar):
    """``chefha:secrets`` and ``chefha:tls`` for a minion of a chefha cluster, nothing for others."""
    if not _named(pillar, minion_id):
        return {}
    pillar = _own_pillar(minion_id)
    if not _named(pillar, minion_id):
        log.warning("%s names itself in pillar chefha, the master does not: it gets no secrets", minion_id)
        return {}
    try:
        given = _given(minion_id, pillar["chefha"])
    except ValueError as error:
        log.error("no secrets of chefha for %s: %s", minion_id, error)
        return {PROBLEM: str(error)}
    return {"chefha": given} if given else {}


def _given(minion_id, tree):
    secrets = _core("secrets")
    try:
        settings = _core("settings").from_pillar(tree, "anybody")
    except ValueError:
        return {}  # the pillar is wrong: the minion's own states say where
    folder = (__opts__.get("chefha") or {}).get("secrets_dir", secrets.FOLDER)
    return secrets.handed_out(settings, minion_id, secrets.Store(settings.cluster, Path(folder)))


def _named(pillar, minion_id):
    """Whether the pillar names the minion as a part of a cluster."""
    tree = pillar.get("chefha")
    if not isinstance(tree, dict):
        return False
    return any(minion_id in named for named in (tree.get("members"), tree.get("frontends")) if isinstance(named, dict))


def _own_pillar(minion_id):
    """The minion's pillar without anything it sent itself."""
    opts = {**__opts__, "pillar": {}, "exclude_ext_pillar": [*__opts__.get("exclude_ext_pillar", []), "chefha_secrets"]}
    grains, saltenv = opts.get("grains") or {}, opts.get("saltenv")
    found = salt.pillar.Pillar(opts, grains, minion_id, saltenv, pillarenv=opts.get("pillarenv"))
    return found.compile_pillar()


def _core(part):
    """A module of the library, in the version of this one; ValueError with one sentence."""
    if _library_version() != __version__:  # the master's process may have loaded an older one, or looked too early
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
            f"the master's chefha_secrets is version {__version__} and chefha's library there is {found}: bring both "
            "to one version (salt-run saltutil.sync_all for the one, salt-pip for the other)"
        )
    return importlib.import_module(f"chefha_core.{part}")


def _library_version():
    try:
        return importlib.import_module("chefha_core").__version__
    except ImportError:
        return None
