"""etcd's users as the settings want them. Where etcd is the user's own (``etcd_endpoints``) nothing is set up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chefha_core.parts.etcd import EtcdClient, EtcdError, NotAccepted
from chefha_core.parts.etcd_access import ROOT, Step, carry_out, look, missing, wanted
from chefha_core.settings import Settings
from chefha_core.verbs.reach import VerbError, etcd_client

#: root's password as etcd last took it from this node: how a new one in the pillar gets into etcd
KEPT = Path("/etc/chefha/etcd-root")
#: seconds for one question
DEADLINE = 5.0
_KEEP = "this node remembers root's password"


def pending(settings: Settings, name: str, kept: Path = KEPT) -> list[str]:
    """What ``establish`` would change, in words; VerbError if that cannot be known."""
    if settings.etcd_endpoints:
        return []
    with _errors():
        root = root_client(settings, name, DEADLINE, kept)
        steps = _steps(settings, name, root)
        root.close()
    return [step.what for step in steps] + ([] if _read(kept) == settings.secrets.etcd_root_password else [_KEEP])


def establish(settings: Settings, name: str, kept: Path = KEPT) -> list[str]:
    """Make the users, the role and its rights, and turn authentication on; what was done, [] if all was so already.
    Any number of members may do this at once. VerbError.
    """
    if settings.etcd_endpoints:
        return []
    with _errors():
        root = root_client(settings, name, DEADLINE, kept)
        steps = _steps(settings, name, root)
        carry_out(root, steps)
        root.close()
    done = [step.what for step in steps]
    if _read(kept) != settings.secrets.etcd_root_password:
        _write(kept, settings.secrets.etcd_root_password)
        done.append(_KEEP)
    return done


def root_client(settings: Settings, name: str, timeout: float, kept: Path = KEPT) -> EtcdClient:
    """A client that etcd accepts as root, by the password of the settings or the former one. EtcdError, VerbError."""
    password = settings.secrets.etcd_root_password
    client = etcd_client(settings, name, timeout, user=ROOT, password=password, former=_read(kept))
    try:
        client.logs_in()
    except NotAccepted:
        client.close()
        raise VerbError(
            "etcd accepts as root neither the password of pillar chefha:secrets:etcd_root_password nor the former one "
            f"that this node remembers in {kept}; put the password that etcd has back into the pillar, or apply the "
            "states of a member first that has been in the cluster for longer"
        ) from None
    except BaseException:
        client.close()
        raise
    return client


def _steps(settings: Settings, name: str, root: EtcdClient) -> list[Step]:
    member = etcd_client(settings, name, DEADLINE)
    try:
        want = wanted(settings)
        return missing(want, look(root, member, want))
    finally:
        member.close()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (EtcdError, OSError) as error:
        raise VerbError(f"etcd's users cannot be looked at or changed: {error}") from None


def _read(kept: Path) -> str:
    try:
        return kept.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _write(kept: Path, password: str) -> None:
    new = kept.with_name(kept.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(password + "\n", encoding="utf-8")
    new.replace(kept)
