"""
One event per change of a chefha cluster's leader, under ``salt/beacon/MINION/chefha_leader/leader_change``.

A thread in the library ``chefha_core`` watches etcd and puts the event on the minion's bus itself, milliseconds after
the change; the tick of the beacon starts that thread and passes on what could not be sent this way.

.. code-block:: yaml

    beacons:
      chefha_leader: []
"""

import importlib
import logging
import sys
from pathlib import Path

import salt.utils.event

log = logging.getLogger(__name__)

__version__ = "0.1.0"
TAG = "leader_change"
#: when the library that is loaded was installed; another time on the disk means that it was replaced
_loaded = [0]


def __virtual__():
    return "chefha_leader"


def validate(config):
    """
    There is nothing to configure.
    """
    if isinstance(config, (list, dict)):
        return True, "Valid beacon configuration"
    return False, "Configuration for the beacon chefha_leader must be a list or a mapping, and may be empty"


def beacon(config):
    """
    See that the watcher runs; return the events that it could not put on the minion's bus itself.
    """
    try:
        watch = _library()
        places = __opts__.get("chefha") or {}  # minion option, for tests
        path = Path(places.get("settings", "/etc/chefha/settings.json"))
        events = watch.tick(__opts__["id"], _fire(dict(__opts__)), path) if watch else []
    except Exception:  # a beacon that raises sends an empty event under its tag
        log.exception("chefha_leader: the watcher could not be asked")
        return []
    return [{**event, "tag": TAG} for event in events]


def _library():
    """The watcher's module, loaded again after the library was replaced on the disk; None without one."""
    watch = sys.modules.get("chefha_core.leader_watch")
    if watch and _loaded[0] == _installed(watch):
        return watch
    if watch:
        watch.stop()
    importlib.invalidate_caches()
    for module in [m for m in sys.modules if m == "chefha_core" or m.startswith("chefha_core.")]:
        del sys.modules[module]
    try:
        watch = importlib.import_module("chefha_core.leader_watch")
    except ImportError as error:
        log.debug("chefha_leader: the library is not there yet: %s", error)
        return None
    _loaded[0] = _installed(watch)
    return watch


def _installed(module):
    try:
        return Path(module.__file__).stat().st_ctime_ns
    except OSError:
        return 0


def _fire(opts):
    """A function that puts an event on the minion's bus, from where it goes to every connected master at once."""

    def fire(event):
        one = {"data": event, "tag": f"salt/beacon/{opts['id']}/chefha_leader/{TAG}"}
        load = {"events": [one], "data": None, "tag": None, "pretag": None}  # a list arrives flat, like any beacon's
        with salt.utils.event.get_event("minion", opts=opts, listen=False) as bus:
            return bool(bus.fire_event(load, "fire_master"))

    return fire
