"""set-cluster-failover and set-node-failover: who may be elected, and whether anybody is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from chefha_core import codec
from chefha_core.model import ClusterConfig
from chefha_core.parts.etcd import Compare, EtcdClient, EtcdError, Put
from chefha_core.settings import Settings
from chefha_core.verbs.reach import PATIENCE, VerbError, etcd_client

WORDS = {"on": True, "true": True, "enabled": True, "off": False, "false": False, "disabled": False}


def wanted(verb: str, state: object) -> bool:
    """True for on, true, enabled; False for off, false, disabled; VerbError for any other word."""
    word = str(state).strip().lower()
    if word not in WORDS:
        raise VerbError(f"{verb}: the state is {state!r}; expected one of {', '.join(WORDS)}")
    return WORDS[word]


def set_cluster_failover(settings: Settings, name: str, state: object) -> dict[str, Any]:
    """Elections, and with them demote and promote, on or off for the whole cluster; a leader goes on."""
    verb = "set-cluster-failover"
    on = wanted(verb, state)
    return _with_etcd(verb, settings, name, lambda etcd: _set_cluster(verb, etcd, on))


def set_node_failover(settings: Settings, name: str, state: object) -> dict[str, Any]:
    """The same for this member alone: off, it is never elected; if it leads it goes on leading."""
    verb = "set-node-failover"
    on = wanted(verb, state)
    return _with_etcd(verb, settings, name, lambda etcd: _set_node(etcd, name, on))


def _set_cluster(verb: str, etcd: EtcdClient, on: bool) -> dict[str, Any]:
    kv = etcd.get("config")
    if kv is None:
        raise VerbError(f"{verb}: the cluster has no data yet; apply the states of its members first")
    config: ClusterConfig = codec.decode({"config": kv}, "config", codec.cluster_config)
    if config.failover != on:
        put = Put("config", codec.dump(dataclasses.replace(config, failover=on)))
        if not etcd.txn([Compare.mod_revision("config", kv.mod_revision)], [put]).succeeded:
            raise VerbError(f"{verb}: somebody else changed the same at this moment; look at cluster-status, try again")
    return {"failover": on, "changed": config.failover != on}


def _set_node(etcd: EtcdClient, name: str, on: bool) -> dict[str, Any]:
    was = etcd.get(f"switches/{name}") is None
    if on and not was:
        etcd.delete(f"switches/{name}")
    elif was and not on:
        etcd.put(f"switches/{name}", "off")
    return {"node": name, "failover": on, "changed": was != on}


def _with_etcd(verb: str, settings: Settings, name: str, act: Callable[[EtcdClient], dict[str, Any]]) -> dict[str, Any]:
    client = etcd_client(settings, name, PATIENCE)
    try:
        return act(client)
    except EtcdError as error:
        raise VerbError(f"{verb}: etcd does not answer with a quorum, so nothing was changed: {error}") from error
    except codec.DamagedKey as error:
        raise VerbError(f"{verb}: {error}; nothing was changed") from error
    finally:
        client.close()
