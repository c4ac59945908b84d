"""bootstrap: what another member knows keeps this one from being the first, and how long etcd is waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.played_clock import Clock

from chefha_core.model import EtcdView
from chefha_core.parts.etcd import EtcdMember
from chefha_core.parts.etcd_members import Said
from chefha_core.settings import Etcd, Postgresql, Secrets, Settings, Tls
from chefha_core.verbs import bootstrap, quorum_loss
from chefha_core.verbs.reach import VerbError

MEMBERS = {"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}
ABSENT = Said(absent=True)
FORMED = Said((EtcdMember("1", "b", ("http://127.0.0.2:2380",), ("http://127.0.0.2:2379",)),))
WAITING = Said((EtcdMember("1", "b", ("http://127.0.0.2:2380",), ()),))
UNCLEAR = Said(problem="http://127.0.0.2:2380 does not answer as etcd does: Expecting value")


class Others:
    """What etcd and leaderl of the other members say; who is not in here does not answer."""

    def __init__(self) -> None:
        self.etcd: dict[str, Said] = {}
        self.pg: dict[str, str] = {}
        self.view: EtcdView | None = None

    def heard_at(self, url: str, *how: Any) -> Said:
        (name,) = [name for name, address in MEMBERS.items() if url == f"http://{address}:2380"]
        return self.etcd.get(name, ABSENT)

    def fetch(self, way: Any, name: str, deadline: float) -> dict[str, Any]:
        if name not in self.pg:
            raise ConnectionRefusedError(name)
        return {"pg": self.pg[name]}


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Others:
    said = Others()
    monkeypatch.setattr(bootstrap, "heard_at", said.heard_at)
    monkeypatch.setattr(bootstrap, "fetch", said.fetch)
    monkeypatch.setattr(bootstrap, "_look", lambda *how: said.view)
    return said


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of machines that have no data."""
    folders = {"postgresql": Postgresql(data_dir=str(tmp_path / "pg")), "etcd": Etcd(data_dir=str(tmp_path / "etcd"))}
    secrets = Secrets("s", "r", "t")
    return Settings(members=MEMBERS, vip="127.0.0.9", secrets=secrets, tls=Tls(enabled=False), **folders)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (FORMED, "etcd of b is in a cluster, which may know this one; bring it up, or use join-cluster"),
        (WAITING, "etcd of b waits for a first formation: start this node's, and they form one"),
        (UNCLEAR, f"etcd of b does not say whether it is in a cluster: {UNCLEAR.problem}"),
    ],
    ids=["in a cluster", "waits for a first formation", "unclear"],
)
def test_no_cluster_is_made_beside_the_etcd_of_another_member(
    others: Others, settings: Settings, said: Said, sentence: str
) -> None:
    others.etcd["b"] = said
    assert bootstrap.why_not(settings, "a") == sentence
    with pytest.raises(VerbError, match=r"^bootstrap: etcd of b "):
        bootstrap.question(settings, "a", False)
    others.view = EtcdView(1)
    assert bootstrap.why_not(settings, "a") == "", "they share that etcd, and it knows no cluster"


@pytest.mark.parametrize("view", [None, EtcdView(1)], ids=["no etcd", "an empty etcd"])
def test_no_cluster_is_made_beside_the_data_of_another_member(
    others: Others, settings: Settings, view: EtcdView | None
) -> None:
    others.view, others.pg = view, {"b": "empty", "c": "stopped"}
    assert bootstrap.why_not(settings, "a") == "c has data; move them away, or begin there"
    others.pg["b"] = "standby"
    assert bootstrap.why_not(settings, "a").count("has data") == 2
    with pytest.raises(VerbError, match=r"^bootstrap: b has data"):
        bootstrap.bootstrap(settings, "a")


def test_members_that_do_not_answer_or_have_nothing_do_not_stand_in_the_way(others: Others, settings: Settings) -> None:
    assert bootstrap.why_not(settings, "a") == ""
    others.pg["b"] = "empty"
    assert bootstrap.question(settings, "a", False).startswith("a becomes the first node")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    played = Clock()
    for module in (bootstrap, quorum_loss):
        monkeypatch.setattr(module, "time", played)
    return played


@pytest.fixture
def marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the marks of a lonely start are. Neither systemd, with the units in ``tmp_path``, nor the states make etcd
    serve."""
    run = tmp_path / "run"
    for module in (bootstrap, quorum_loss):
        monkeypatch.setattr(module, "ALONE", run / "etcd-alone")
        monkeypatch.setattr(module, "run_folder", lambda folder: folder.mkdir(exist_ok=True))
    monkeypatch.setattr(bootstrap, "SEARCH_ALONE", run / "search-alone")
    monkeypatch.setattr(quorum_loss, "systemctl", lambda *how: None)
    monkeypatch.setattr(quorum_loss, "serving", lambda *how: ())
    monkeypatch.setattr(bootstrap, "_states", lambda *how: None)
    monkeypatch.setattr(bootstrap, "Path", lambda path: tmp_path / Path(path).name)
    return run


@pytest.mark.parametrize("wait", [5.0, 90.0])
@pytest.mark.parametrize(
    ("laid_out", "sentence", "failed"),
    [
        (True, "etcd does not serve with a alone after {:g} s; look at: journalctl -u chefha-etcd.service", 0),
        (False, "etcd does not serve this node after {:g} s; look at: chef-backend-ctl status", 2),
    ],
    ids=["etcd is laid out", "the states lay it out"],
)
def test_an_etcd_that_never_serves_is_waited_for_as_long_as_was_asked(
    others: Others, settings: Settings, clock: Clock, marks: Path, tmp_path: Path,
    wait: float, laid_out: bool, sentence: str, failed: int,
) -> None:  # fmt: skip
    if laid_out:
        (tmp_path / bootstrap.UNIT).touch()
    told: list[dict[str, Any]] = []
    with pytest.raises(VerbError) as error:
        bootstrap.bootstrap(settings, "a", etcd_wait=wait, on_step=told.append)
    assert str(error.value) == f"bootstrap: {sentence.format(wait)}"
    assert wait <= clock.now < wait + 1.0
    assert [row["outcome"] for row in told].index("failed") == failed
    assert not list(marks.iterdir()), "no later start forgets the others"
