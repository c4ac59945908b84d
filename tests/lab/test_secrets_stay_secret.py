"""No password, token or private key stands where somebody may read it by chance: each is looked for, everywhere.

Those that a rotation has replaced since are looked for as well: what was said before it has no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from lab.api import Lab
from tests.lab.bring_up import APPLY_TIMEOUT, BringUp
from tests.lab.secrecy import Secrets

pytestmark = pytest.mark.everywhere


def test_the_first_highstate_left_no_secret_where_anybody_reads(bring_up: BringUp) -> None:
    """Looked for as soon as it was done: machines that other tests replace take their logs with them."""
    assert not bring_up.leaks, "\n".join(bring_up.leaks)


def test_no_secret_stands_in_logs_job_cache_journal_process_lists_or_open_files(lab: Lab, secrets: Secrets) -> None:
    """Each secret, former ones included, is looked for on each machine, while everything runs."""
    secrets.note(lab)
    assert len(secrets) >= 10
    leaks = secrets.leaks(lab)
    assert not leaks, "\n".join(leaks)


def test_no_secret_stands_in_what_states_and_functions_answer(lab: Lab, bring_up: BringUp, secrets: Secrets) -> None:
    """Neither in the answers of the first highstate, test mode included, nor of the functions that show settings."""
    secrets.note(lab)
    answers: dict[str, Mapping[str, Any]] = {
        "state.apply test=True": bring_up.promised,
        "state.apply": bring_up.came_true,
        "a second state.apply": lab.salt("*", "state.apply", timeout=APPLY_TIMEOUT),
        "chefha.validate_pillar": lab.salt("be*", "chefha.validate_pillar"),
        "chefha.show_config": lab.salt("be*", "chefha.show_config"),
        "chefha.gen_server_config": lab.salt("be*", "chefha.gen_server_config", "fe1"),
        "chefha.status": lab.salt("be*", "chefha.status"),
        "chefha.cluster_status": lab.salt("be*", "chefha.cluster_status"),
    }
    for what, answer in answers.items():
        shown = secrets.shown_in(answer)
        assert not shown, f"{what} shows {', '.join(shown)}"
