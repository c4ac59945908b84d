"""Messages between nodes: genuine ones open, everything else is forged."""

from __future__ import annotations

import pytest

from chefha_core.parts.signing import (
    MOST_BYTES,
    ForgedMessage,
    new_nonce,
    open_question,
    open_signed,
    sign,
)

BODY = {"name": "be1", "epoch": 42, "leads": True, "note": "größer", "nested": {"b": [1, None], "a": 0.5}}


def test_question_and_answer() -> None:
    nonce = new_nonce()
    body, heard = open_question("token", sign("token", {"kind": "leads?"}, nonce=nonce))
    assert (body, heard) == ({"kind": "leads?"}, nonce)
    assert open_signed("token", sign("token", BODY, nonce=heard), expected_nonce=nonce) == BODY


def test_same_content_same_bytes() -> None:
    assert sign("t", {"a": 1, "b": 2}, nonce="n") == sign("t", {"b": 2, "a": 1}, nonce="n")


def test_another_secret() -> None:
    with pytest.raises(ForgedMessage, match="token"):
        open_signed("other", sign("token", BODY, nonce="n"), expected_nonce=None)


def test_an_answer_to_another_question() -> None:
    raw = sign("token", BODY, nonce="yesterday")
    assert open_signed("token", raw, expected_nonce=None) == BODY
    with pytest.raises(ForgedMessage, match="another question"):
        open_signed("token", raw, expected_nonce="today")
    with pytest.raises(ForgedMessage, match="another question"):
        open_signed("token", raw, expected_nonce="größer")


def test_every_altered_byte_is_noticed() -> None:
    raw = sign("token", BODY, nonce="n")
    for place in range(len(raw)):
        altered = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        with pytest.raises(ForgedMessage):
            open_signed("token", altered, expected_nonce=None)
        with pytest.raises(ForgedMessage):
            open_signed("token", raw[:place], expected_nonce=None)


@pytest.mark.parametrize(
    "raw", [b"", b".", b"{}", b"\xff\xfe.\x00", b"a" * 64, b"a" * 64 + b".{}", b"x" * (MOST_BYTES + 1)]
)
def test_rubbish(raw: bytes) -> None:
    with pytest.raises(ForgedMessage):
        open_signed("token", raw, expected_nonce=None)


def test_what_cannot_be_signed() -> None:
    with pytest.raises(ValueError, match="token is empty"):
        sign("", BODY, nonce="n")
    with pytest.raises(ValueError, match="nonce"):
        sign("token", BODY, nonce="")
    with pytest.raises(ValueError, match="bytes"):
        sign("token", {"long": "x" * MOST_BYTES}, nonce="n")
    with pytest.raises(ValueError, match="JSON compliant"):
        sign("token", {"lag": float("nan")}, nonce="n")
