"""Settings of a cluster with search, for the tests of it."""

from __future__ import annotations

from typing import Any

from chefha_core.settings import SECRETS_OF, Settings, from_pillar

MEMBERS = {"be1": "192.0.2.11", "be2": "192.0.2.12", "be3": "192.0.2.13"}
SUM = "0123456789abcdef" * 4
ARCHIVE = {"archive": "https://192.0.2.50/opensearch.tar.gz", "checksum": f"sha256={SUM}"}


def settings(flavor: str = "opensearch", members: dict[str, str] = MEMBERS, **search: Any) -> Settings:
    source = {} if flavor == "none" else {"source": ARCHIVE}
    pillar = {
        "members": members,
        "vip": "192.0.2.100",
        "secrets": {name: "x" for name in SECRETS_OF["backend"]},
        "tls": {"enabled": False},
        "search": {"flavor": flavor, **source, **search},
    }
    return from_pillar(pillar)
