"""An answer of etcd's gateway: a refusal, or only a member that cannot answer now."""

from __future__ import annotations

import json

import pytest

from chefha_core.parts.etcd_http import EtcdRefused, MemberFailed, decode


def body(message: str, code: int) -> bytes:
    """An error as the gateway writes it."""
    return json.dumps({"error": message, "message": message, "code": code}).encode()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("OK: HTTP status code 200; transport: missing content-type field", 2),
        ("server closed the stream without sending trailers", 13),
    ],
)
def test_a_member_that_is_being_stopped_has_refused_nothing(said: str, code: int) -> None:
    """Seen from etcd while it stops; whether the question arrived is not known."""
    with pytest.raises(MemberFailed, match=said) as failure:
        decode(500, body(said, code))
    assert failure.value.again and failure.value.sent


def test_any_other_unknown_error_is_a_refusal() -> None:
    with pytest.raises(EtcdRefused, match="no such thing"):
        decode(500, body("no such thing", 2))
