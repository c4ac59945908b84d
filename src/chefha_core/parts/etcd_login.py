"""Who a client is to etcd: a user, a password, and a token of each member.

It is lazy. Nothing is known beforehand of whether etcd asks for a user at all: a question goes out with the token at
hand, or with none, and only a member that refuses it for that is asked for a token, within the same attempt and its
deadline. So authentication may be turned on, or a token may end, while a client runs, and where it is off nothing costs
anything.

A token is tried at every member, and each may give one of its own: while the key that signs them is being exchanged,
restart by restart, a member takes only its own.

A password may be exchanged at any moment, too, by another member: whoever gives a former one beside the new one gets in
before and afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import urllib3

from chefha_core.parts.etcd_http import PERMISSION_DENIED, Attempt, EtcdRefused, MemberFailed, NotAccepted, ask

#: how often one attempt takes a new token; more than one is needed only while users are being set up
TOKENS = 3
#: what etcd says where the token is missing, over, signed by another key, or older than the latest change of users
_SIGNS = ("invalid auth token", "revision of auth store is old", "user name is empty")
_AUTHENTICATE = "/v3/auth/authenticate"


class Login:
    """Thread-safe: threads that find a token refused at the same time each fetch one, which is harmless."""

    def __init__(self, user: str = "", password: str = "", former: str = "") -> None:
        self.user = user
        # the new one once more: it may have taken effect just after it was refused
        self._passwords = (password, former, password) if former and former != password else (password,)
        #: True if etcd took the former password last
        self.by_former = False
        self._tokens: dict[str, str] = {}
        self._newest = ""

    def __repr__(self) -> str:
        return f"Login({self.user!r}, …)"

    def token(self, endpoint: str) -> str:
        """What to show this member; "" for nothing."""
        return self._tokens.get(endpoint, self._newest)

    @property
    def has_token(self) -> bool:
        """True if etcd has accepted the user, and nothing else since."""
        return bool(self._newest)

    def ask(
        self, pool: urllib3.HTTPConnectionPool, path: str, body: Mapping[str, Any], attempt: Attempt
    ) -> dict[str, Any]:
        """The decoded answer of one member. A write that was refused for its token was not applied, so it is simply
        sent again with a new one. MemberFailed, EtcdRefused, NotAccepted.
        """
        for _ in range(TOKENS):
            token = self.token(attempt.endpoint)
            try:
                return ask(pool, path, body, attempt, token)
            except EtcdRefused as refusal:
                if not self.wanted(refusal, token):
                    raise
            self.renew(pool, attempt, token)
        raise MemberFailed(f"refused {TOKENS} tokens of its own, one after the other", again=True, sent=False)

    def wanted(self, refusal: EtcdRefused, token: str) -> bool:
        """True if a new token would make a difference to a question that was sent with this one."""
        return bool(self.user) and token_wanted(refusal, token)

    def renew(self, pool: urllib3.HTTPConnectionPool, attempt: Attempt, refused: str) -> None:
        """A new token from the member that refused this one, unless another thread has it already.

        MemberFailed, NotAccepted; either way the question itself has done nothing.
        """
        if self.token(attempt.endpoint) != refused:
            return
        for password in self._passwords:
            try:
                answer = ask(pool, _AUTHENTICATE, {"name": self.user, "password": password}, attempt)
                token, self.by_former = str(answer.get("token", "")), password != self._passwords[0]
            except MemberFailed as error:
                raise MemberFailed(f"{error} (asked for a token)", again=error.again, sent=False) from None
            except EtcdRefused as refusal:
                if "authentication is not enabled" not in str(refusal):
                    continue
                token, self.by_former = "", False
            self._tokens[attempt.endpoint] = self._newest = token
            return
        raise NotAccepted(f"etcd does not accept the user {self.user} with the password it was given")


def token_wanted(refusal: EtcdRefused, token: str) -> bool:
    """True if etcd refused for the lack or age of a token, not because of what was asked."""
    if refusal.code == PERMISSION_DENIED:
        return not token  # so etcd says to nobody in particular; to a user it means what it says
    return any(sign in str(refusal) for sign in _SIGNS)
