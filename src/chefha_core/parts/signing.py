"""Small JSON messages between the nodes, signed with the cluster's token so that nobody else can speak for a
node.

A message is one line: 64 hexadecimal digits of HMAC-SHA256, a full stop, and the JSON it covers, which holds
the body and a nonce. The signature is checked over the bytes as they came, before anything parses them.

Who asks invents a nonce and accepts only an answer that repeats it: an answer from yesterday is worth
nothing. A request can be replayed, so it must be harmless to be asked the same twice.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

#: bytes; longer messages are refused unread
MOST_BYTES = 64 * 1024
#: separates these signatures from any other use of the same secret
_PURPOSE = b"chefha message 1\n"


class ForgedMessage(Exception):
    """The message was not signed with this secret, was altered, or answers another question."""


def new_nonce() -> str:
    """A nonce for a question: 128 random bits as text."""
    return secrets.token_hex(16)


def sign(secret: str, body: Mapping[str, Any], *, nonce: str) -> bytes:
    """``body`` (plain JSON data) as a signed message; ValueError if secret or nonce is empty, or it is too
    long.
    """
    if not nonce:
        raise ValueError("a message needs a nonce")
    text = {"body": dict(body), "nonce": nonce}
    covered = json.dumps(text, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    raw = _mac(secret, covered) + b"." + covered
    if len(raw) > MOST_BYTES:
        raise ValueError(f"the message has {len(raw)} bytes; at most {MOST_BYTES} are allowed")
    return raw


def open_signed(secret: str, raw: bytes, *, expected_nonce: str | None) -> dict[str, Any]:
    """The body of a message. ForgedMessage unless it is genuine and, where one is expected, repeats the
    nonce.

    ``expected_nonce`` is None only for who receives a question; see ``open_question``.
    """
    body, nonce = open_question(secret, raw)
    if expected_nonce is not None and not hmac.compare_digest(nonce.encode(), expected_nonce.encode()):
        raise ForgedMessage("the message is genuine but answers another question (its nonce differs)")
    return body


def open_with_any(secrets: Iterable[str], raw: bytes) -> tuple[dict[str, Any], str, str]:
    """Body and nonce of a message, and which of the secrets it was signed with; ForgedMessage if with none."""
    refusal = ForgedMessage("this cluster has no token")
    for secret in secrets:
        try:
            return (*open_question(secret, raw), secret)
        except ForgedMessage as error:
            refusal = error
    raise refusal


def open_question(secret: str, raw: bytes) -> tuple[dict[str, Any], str]:
    """Body and nonce of a message; the answer has to repeat the nonce. ForgedMessage unless it is genuine."""
    if len(raw) > MOST_BYTES:
        raise ForgedMessage(f"the message has {len(raw)} bytes; at most {MOST_BYTES} are allowed")
    mac, dot, covered = raw.partition(b".")
    if not dot or not hmac.compare_digest(mac, _mac(secret, covered)):
        raise ForgedMessage("the message was not signed with this cluster's token")
    try:
        text = json.loads(covered)
        body, nonce = text["body"], text["nonce"]
    except (ValueError, KeyError, TypeError) as error:
        raise ForgedMessage("the message is genuine but is not one of ours") from error
    if not isinstance(body, dict) or not isinstance(nonce, str):
        raise ForgedMessage("the message is genuine but is not one of ours")
    return body, nonce


def _mac(secret: str, covered: bytes) -> bytes:
    if not secret:
        raise ValueError("the cluster's token is empty")
    return hmac.new(secret.encode(), _PURPOSE + covered, hashlib.sha256).hexdigest().encode()
