"""bootstrap: the first node of a cluster, or the one that goes on alone after a loss of the quorum."""

from __future__ import annotations

from typing import Any

from chefha_core.settings import Settings
from chefha_core.verbs import quorum_loss
from chefha_core.verbs.reach import VerbError
from chefha_core.verbs.steps import OnStep, nobody_looks


def question(settings: Settings, name: str, quorum_loss_recovery: bool) -> str:
    """What a person has to agree to; VerbError if it would be refused."""
    refusal = quorum_loss.why_not(settings, name)
    if refusal:
        raise VerbError(f"{quorum_loss.VERB}: {refusal}")
    return quorum_loss.in_words(name, quorum_loss.may_be_missing(settings, name))


def bootstrap(
    settings: Settings,
    name: str,
    quorum_loss_recovery: bool = False,
    etcd_wait: float = 30.0,
    search_wait: float = 30.0,
    on_step: OnStep = nobody_looks,
) -> dict[str, Any]:
    """Carry it out; VerbError."""
    return quorum_loss.recover(settings, name, etcd_wait, on_step)
