"""Passwords and certificates of one cluster: for the pillar all at once, or kept in a folder on the Salt master.

In the folder the authority's private key stays, and nothing else ever sees it; each member has a certificate of its
own, issued when the member's pillar is first asked for. Every file is replaced as a whole, so whoever reads without
the lock sees the state before a change or the one after it.

Rotation goes in steps, and the states are applied to every member and front end after each. In no order of that do
two of them stop understanding each other:

    authority       a second authority is trusted beside the present one, which still issues
    certificates    the second one issues; both are trusted
    authority_done  the first one is forgotten

    token           a new token; the previous one is still understood
    token_done      the previous one is forgotten
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chefha_core.authority import AUTHORITY_DAYS, LIFE_DAYS, LOOPBACK, Pair, issue, issued_by, new_authority
from chefha_core.settings import SECRETS_OF, Settings

#: where the master keeps them, one folder for each cluster
FOLDER = Path("/etc/salt/chefha")
#: bytes of randomness in each password; written as hexadecimal digits, which need no quoting anywhere
_PASSWORD_BYTES = 24
#: seconds before its end at which a certificate is replaced
RENEW = 30 * 86400.0
#: seconds for which issuing a certificate waits for another change
PATIENCE = 10.0
#: the authorities within ``Trust``
_PARTS = ("issuer", "coming", "going")
APPLY = "apply the states of all members and front ends"


class SecretsError(ValueError):
    """One sentence: what failed, where, and what to do."""


def generate(members: Mapping[str, str], vip: str) -> dict[str, Any]:
    """Fresh secrets for the cluster of ``members`` (name: address), in the pillar's shape; texts only.

    ``secrets``: what SECRETS_OF gives a back end; ``tls``: ca, certificate, key (PEM). One certificate serves the
    whole cluster, and the authority's private key is thrown away: it would lie in the pillar, which every member reads.
    """
    authority = new_authority(LIFE_DAYS)
    own = issue(authority, dict.fromkeys([*members, *members.values(), vip, *LOOPBACK]))
    return {
        "secrets": {name: _password() for name in SECRETS_OF["backend"]},
        "tls": {"ca": authority.certificate, "certificate": own.certificate, "key": own.key},
    }


def _fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _password() -> str:
    return secrets.token_hex(_PASSWORD_BYTES)


def _texts(tree: Mapping[str, Any], *names: str) -> dict[str, str]:
    """These entries, which must be texts: TypeError, KeyError."""
    found = {name: tree[name] for name in names}
    if not all(isinstance(text, str) for text in found.values()):
        raise TypeError
    return found


@dataclass(frozen=True)
class Trust:
    """Who issues certificates, and which other authority is trusted beside it: one to come, or one to go."""

    issuer: Pair
    coming: Pair | None = None
    going: Pair | None = None
    #: counts the requests for new certificates; older ones are replaced when next asked for
    generation: int = 0

    @property
    def bundle(self) -> str:
        """What the members trust, PEM texts."""
        return "".join(pair.certificate for pair in (self.issuer, self.coming, self.going) if pair)

    @property
    def fingerprint(self) -> str:
        """Tells one bundle from another."""
        return _fingerprint(self.bundle)


@dataclass(frozen=True)
class Leaf:
    """A member's certificate, for whom it is, when it ends (seconds since 1970), and since which request it counts."""

    pair: Pair
    names: tuple[str, ...]
    ends: float
    generation: int
    #: fingerprint of the authorities that the member was told to trust when it last asked
    trusts: str

    def why_renew(self, trust: Trust, names: Sequence[str]) -> str:
        """Why the certificate does not serve any more; "" if it does."""
        if self.names != tuple(names):
            return "it names others"
        if self.generation != trust.generation:
            return "a new one was asked for"
        now = time.time()
        soon = self.ends - RENEW < now
        # at the end of the authority's life a new one would end no later, and each look would issue another
        return "it ends soon" if soon and min(trust.issuer.ends, now + LIFE_DAYS * 86400) > self.ends + RENEW else ""

    @classmethod
    def issued(cls, trust: Trust, names: Sequence[str]) -> Leaf:
        """A fresh one."""
        pair = issue(trust.issuer, names)
        return cls(pair, tuple(names), pair.ends, trust.generation, trust.fingerprint)


@dataclass(frozen=True)
class Store:
    """The secrets of ``cluster`` below ``base``; SecretsError with one sentence for whatever cannot be done."""

    cluster: str
    base: Path = FOLDER
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,62}", self.cluster):
            raise SecretsError(f"{self.cluster!r} is no name of a cluster; expected what pillar chefha:cluster says")
        object.__setattr__(self, "folder", self.base / self.cluster)

    # ---- what the runner does

    def make(self) -> list[str]:
        """Make whatever is missing; what was made, in words. [] if nothing was missing."""
        with self._locked(0.0):
            made = []
            known = self._passwords()
            if missing := [name for name in SECRETS_OF["backend"] if not known.get(name)]:
                self._write("secrets.json", {**known, **{name: _password() for name in missing}})
                made += missing
            if not (self.folder / "authority.json").exists():
                self._write_trust(Trust(new_authority()))
                made.append(f"certificate authority, good for {AUTHORITY_DAYS // 365} years")
            return made

    def rotate(self, step: str) -> str:
        """One step of a rotation; what it did and what is to do next, in words."""
        if step not in ROTATIONS:
            raise SecretsError(f"rotate={step} is no rotation; expected one of {', '.join(ROTATIONS)}")
        with self._locked(0.0):
            return ROTATIONS[step](self)

    # ---- what the members get

    def passwords(self) -> dict[str, str]:
        """All secrets by name; SecretsError if there are none."""
        return self._passwords() or self._missing()

    def authorities(self) -> str:
        """The authorities that the members trust now, PEM texts."""
        return self._trust().bundle

    def certificate(self, name: str, names: Sequence[str]) -> Pair:
        """The certificate of the member ``name``, good for ``names``; issued where there is none that still serves."""
        trust, leaf = self._trust(), self._leaf(name)
        if leaf is None or leaf.trusts != trust.fingerprint or leaf.why_renew(trust, names):
            with self._locked(PATIENCE):
                trust, leaf = self._trust(), self._leaf(name)
                if leaf is None or leaf.why_renew(trust, names):
                    leaf = Leaf.issued(trust, names)
                leaf = dataclasses.replace(leaf, trusts=trust.fingerprint)
                self._write(f"members/{name}.json", dataclasses.asdict(leaf))
        return leaf.pair

    # ---- files

    def _passwords(self) -> dict[str, str]:
        found = self._read("secrets.json")
        with self._as_written("secrets.json"):
            return _texts(found, *found)

    def _trust(self) -> Trust:
        for _ in range(2):  # an authority may be forgotten while this reads
            found = self._read("authority.json") or self._missing()
            with self._as_written("authority.json"):
                names = _texts({part: found[part] or "" for part in _PARTS}, *_PARTS).values()
                generation = int(found["generation"])
            pairs = [Pair(self._text(f"{name}.crt"), self._text(f"{name}.key")) if name else None for name in names]
            if all(pair is None or (pair.certificate and pair.key) for pair in pairs):
                issuer, coming, going = pairs
                return Trust(issuer or self._missing(), coming, going, generation)
        raise SecretsError(f"{self.folder} on the master lacks files of {', '.join(filter(None, names))}; restore them")

    def _write_trust(self, trust: Trust) -> None:
        """First the authorities, then which of them counts for what, then those that count for nothing are deleted."""
        named: dict[str, str | int | None] = {"generation": trust.generation}
        for part, pair in zip(_PARTS, (trust.issuer, trust.coming, trust.going), strict=True):
            named[part] = f"authority-{_fingerprint(pair.certificate)[:8]}" if pair else None
            if pair:
                self._write(f"{named[part]}.key", pair.key)
                self._write(f"{named[part]}.crt", pair.certificate)
        self._write("authority.json", named)
        with self._explained():
            for path in self.folder.glob("authority-*"):
                if path.stem not in named.values():
                    path.unlink()

    def _leaf(self, name: str) -> Leaf | None:
        file = f"members/{name}.json"
        found = self._read(file)
        if not found:
            return None
        with self._as_written(file):
            own = _texts(found["pair"], "certificate", "key")
            ends, generation = float(found["ends"]), int(found["generation"])
            return Leaf(Pair(**own), tuple(found["names"]), ends, generation, str(found["trusts"]))

    def _missing(self) -> Any:
        raise SecretsError(
            f"there are no secrets of the cluster {self.cluster} on the master; make them there: "
            f"salt-run chefha.secrets cluster={self.cluster}"
        )

    def _read(self, name: str) -> dict[str, Any]:
        """What is in a file; {} if it is not there."""
        text = self._text(name)
        with self._as_written(name):
            return dict(json.loads(text).items()) if text else {}

    @contextlib.contextmanager
    def _as_written(self, name: str) -> Iterator[None]:
        """SecretsError where the file does not hold what was written there."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError):
            raise SecretsError(
                f"{self.folder / name} on the master is not what was written there; restore it from a backup"
            ) from None

    def _text(self, name: str) -> str:
        """Content of a file; "" if it is not there."""
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise SecretsError(
                f"{path} on the master cannot be read ({getattr(error, 'strerror', 'no text')}); it should belong to "
                "the user who runs salt-master, mode 0600"
            ) from None

    def _write(self, name: str, content: str | Mapping[str, Any]) -> None:
        """Replace a file as a whole, for its owner only, so that a crash leaves the former or the new one."""
        path = self.folder / name
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        temporary = path.with_name(f".{path.name}.new")
        with self._explained():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            temporary.unlink(missing_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(fd)
            temporary.replace(path)

    @contextlib.contextmanager
    def _locked(self, patience: float) -> Iterator[None]:
        """Nobody else changes anything meanwhile; waits for ``patience`` seconds at most."""
        with self._explained():
            for folder in (self.base, self.folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + patience
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise SecretsError(
                            f"another run is changing {self.folder} on the master; wait for its end and try again"
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SecretsError(
                f"{error.filename or self.folder} on the master cannot be written ({error.strerror}); the user who "
                f"runs salt-master must own the folder: install -d -m 0700 -o USER {self.base}"
            ) from None

    # ---- rotations: what is checked first keeps the steps in their order

    def _rotate_passwords(self) -> str:
        known = self.passwords()
        fresh = {name: _password() for name in known if name.endswith("_password")}
        self._write("secrets.json", {**known, **fresh})
        return f"new: {', '.join(fresh)}; {APPLY}, all at once"

    def _rotate_token(self) -> str:
        known = self.passwords()
        if known.get("previous_token"):
            raise SecretsError(f"the last new token is not in use everywhere yet; {APPLY}, then rotate=token_done")
        self._write("secrets.json", {**known, "token": _password(), "previous_token": known["token"]})
        return f"new: token, and the previous one is still understood; {APPLY}, then rotate=token_done"

    def _forget_token(self) -> str:
        known = self.passwords()
        if not known.pop("previous_token", ""):
            raise SecretsError("there is no previous token to forget; rotate=token makes a new one first")
        self._write("secrets.json", known)
        return f"the previous token is forgotten; {APPLY}"

    def _rotate_certificates(self) -> str:
        trust = self._trust()
        later = trust.generation + 1
        if trust.coming is None:
            self._write_trust(dataclasses.replace(trust, generation=later))
            return f"every member gets a new certificate; {APPLY}"
        self._await_all(lambda leaf: leaf.trusts == trust.fingerprint, "has not been told of the new authority yet")
        self._write_trust(Trust(trust.coming, going=trust.issuer, generation=later))
        return f"every member gets a certificate of the new authority; {APPLY}, then rotate=authority_done"

    def _rotate_authority(self) -> str:
        trust = self._trust()
        if trust.coming:
            raise SecretsError(f"a new authority is on its way already; {APPLY}, then rotate=certificates")
        if trust.going:
            raise SecretsError(f"the last new authority is not alone yet; {APPLY}, then rotate=authority_done")
        self._write_trust(dataclasses.replace(trust, coming=new_authority()))
        return f"a new authority is trusted beside the present one; {APPLY}, then rotate=certificates"

    def _forget_authority(self) -> str:
        trust = self._trust()
        if not trust.going:
            first = "certificates" if trust.coming else "authority"
            raise SecretsError(f"there is no former authority to forget; rotate={first} comes first")
        present = trust.issuer.certificate
        self._await_all(
            lambda leaf: issued_by(leaf.pair.certificate, present), "still has a certificate of the former authority"
        )
        self._write_trust(dataclasses.replace(trust, going=None))
        return f"the former authority is forgotten; {APPLY}"

    def _await_all(self, done: Callable[[Leaf], bool], otherwise: str) -> None:
        """SecretsError if a member has not asked for what the step before made."""
        names = sorted(path.stem for path in (self.folder / "members").glob("*.json"))
        if late := [name for name in names if (leaf := self._leaf(name)) and not done(leaf)]:
            raise SecretsError(
                f"{', '.join(late)} {otherwise}; apply its states first, or delete its file in {self.folder}/members "
                "if it is gone for good"
            )


ROTATIONS: dict[str, Callable[[Store], str]] = {
    "passwords": Store._rotate_passwords,
    "token": Store._rotate_token,
    "token_done": Store._forget_token,
    "certificates": Store._rotate_certificates,
    "authority": Store._rotate_authority,
    "authority_done": Store._forget_authority,
}


def handed_out(settings: Settings, name: str, store: Store) -> dict[str, Any]:
    """What the minion ``name`` gets beside its pillar, as the tree below ``chefha:``; {} for who is in no cluster.

    What the pillar has itself is left to it. SecretsError if something that is needed cannot be had.
    """
    role = "backend" if name in settings.members else "frontend" if name in settings.frontends else "anybody"
    wanted = [secret for secret in SECRETS_OF[role] if not getattr(settings.secrets, secret)]
    given: dict[str, Any] = {}
    if wanted:
        known = store.passwords()
        if "token" in wanted and known.get("previous_token"):
            wanted.append("previous_token")
        given["secrets"] = {secret: known[secret] for secret in wanted if secret in known}
    tls = settings.tls
    if role != "anybody" and tls.enabled and not (tls.ca or tls.certificate or tls.key):
        given["tls"] = {"ca": store.authorities()}
        if role == "backend":
            names = dict.fromkeys([name, settings.members[name], settings.vip, *LOOPBACK])
            given["tls"] |= dataclasses.asdict(store.certificate(name, tuple(names)))
    return given
