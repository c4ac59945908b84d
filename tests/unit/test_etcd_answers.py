"""An answer of etcd's gateway: a refusal, or only a member that cannot answer now."""

from __future__ import annotations

import json

import pytest

from chefha_core.parts.etcd_http import EtcdRefused, MemberFailed, decode


def body(message: str, code: int) -> bytes:
    """An error as the gateway writes it."""
    return json.dumps({"error": message, "message": message, "code": code}).encode()


def test_a_member_that_is_being_stopped_has_refused_nothing() -> None:
    """Seen from etcd while it stops; whether the question arrived is not known."""
    said = "OK: HTTP status code 200; transport: missing content-type field"
    with pytest.raises(MemberFailed, match="content-type") as failure:
        decode(500, body(said, 2))
    assert failure.value.again and failure.value.sent


def test_any_other_unknown_error_is_a_refusal() -> None:
    with pytest.raises(EtcdRefused, match="no such thing"):
        decode(500, body("no such thing", 2))
