"""Search: what is laid out, and what the pillar may say about it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.search_pillar import ARCHIVE, MEMBERS, SUM, settings

from chefha_core.checked import SettingsError
from chefha_core.layout import search_files
from chefha_core.layout.repository import signed_by
from chefha_core.layout.search import Machine, wishes
from chefha_core.layout.wish import Wish
from chefha_core.search_engine import unpacked

MACHINE = Machine(memory_mb=24000, raise_maps=False)


def named(found: list[Wish], state: str) -> list[str]:
    return [wish.arguments["name"] for wish in found if wish.state == state]


def text_of(found: list[Wish], path: str) -> str:
    return next(str(wish.arguments["contents"]) for wish in found if wish.arguments["name"] == path)


# ---- the layout


def test_without_search_nothing_is_laid_out_and_what_was_is_stopped_before_its_unit_goes() -> None:
    found = wishes(settings("none"), "be1", MACHINE)
    stop, *gone, known = found
    assert stop.arguments["name"] == "systemctl stop chefha-search.service" and "is-active" in stop.only_if
    units = "/etc/systemd/system"
    assert [(wish.state, wish.arguments["name"]) for wish in gone] == [
        ("file.absent", f"{units}/multi-user.target.wants/chefha-search.service"),
        ("file.absent", f"{units}/chefha-search.service"),
    ]
    assert known.arguments["name"] == "systemctl daemon-reload" and known.after_change


@pytest.mark.parametrize(
    ("said", "stops"),
    [("active", True), ("activating", True), ("inactive", False), ("failed", False), ("unknown", False), ("", False)],
)
def test_search_is_stopped_only_where_it_runs_or_tries_to(tmp_path: Path, said: str, stops: bool) -> None:
    stop = wishes(settings("none"), "be1", MACHINE)[0]
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho {said}\nexit 3\n")
    systemctl.chmod(0o755)
    done = subprocess.run(["sh", "-c", stop.only_if], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (done.returncode == 0) == stops


@pytest.mark.parametrize(
    ("flavor", "file", "program"),
    [
        ("opensearch", "opensearch.yml", "OPENSEARCH_PATH_CONF=/etc/chefha/search "),
        ("elasticsearch", "elasticsearch.yml", "ES_PATH_CONF=/etc/chefha/search "),
    ],
)
def test_an_archive_is_unpacked_once_and_runs_as_a_user_of_its_own(flavor: str, file: str, program: str) -> None:
    found = wishes(settings(flavor), "be2", MACHINE)
    (archive,) = (wish.arguments for wish in found if wish.state == "archive.extracted")
    assert archive["source_hash"] == ARCHIVE["checksum"]
    assert archive["if_missing"] == f"{archive['name']}/.complete"
    names = [wish.arguments["name"] for wish in found]
    assert names.index(archive["name"]) < names.index(archive["if_missing"]) < names.index("chefha-search.service")
    assert named(found, "user.present") == ["chefha-search"]
    config = yaml.safe_load(text_of(found, f"/etc/chefha/search/{file}"))
    assert config["network.host"] == "192.0.2.12" and config["http.bind_host"] == "0.0.0.0"
    assert config["discovery.seed_hosts"] == [f"{address}:9300" for address in MEMBERS.values()]
    assert not any("initial" in key for key in config)
    assert program in text_of(found, "/etc/systemd/system/chefha-search.service")
    assert found[-1].restart == "chefha-search.service"


def test_another_archive_goes_beside_the_one_that_runs() -> None:
    other = {**ARCHIVE, "checksum": f"sha256={SUM[::-1]}"}
    assert unpacked(settings().search) != unpacked(settings(source=other).search)


def test_a_package_comes_from_its_repository_and_its_own_service_never_starts() -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx"
    source = {"package": "opensearch", "repository": "deb https://192.0.2.50/apt stable main", "repository_key": key}
    found = wishes(settings(source=source), "be1", MACHINE)
    assert not named(found, "archive.extracted")
    order = [wish.arguments["name"] for wish in found]
    assert order.index("/etc/systemd/system/opensearch.service") < order.index("chefha-search-package")
    line = text_of(found, "/etc/apt/sources.list.d/chefha-search.list")
    assert line == "deb [signed-by=/etc/apt/keyrings/chefha-search.asc] https://192.0.2.50/apt stable main"
    assert "SupplementaryGroups=opensearch\n" in text_of(found, "/etc/systemd/system/chefha-search.service")


def test_the_programs_of_a_package_find_our_configuration() -> None:
    """Elasticsearch's read /etc/default/elasticsearch behind what the unit says."""
    source = {"package": "elasticsearch"}
    found = wishes(settings(source=source, flavor="elasticsearch", version="7.17.9"), "be1", MACHINE)
    order = [wish.arguments["name"] for wish in found]
    assert order.index("chefha-search-package") < order.index("/etc/default/elasticsearch")
    assert "ES_PATH_CONF=/etc/chefha/search" in text_of(found, "/etc/default/elasticsearch").splitlines()


@pytest.mark.parametrize(
    ("line", "signed"),
    [
        ("deb [arch=amd64] https://x a", "deb [arch=amd64 signed-by=/k] https://x a"),
        ("deb [signed-by=/own] https://x a", "deb [signed-by=/own] https://x a"),
    ],
)
def test_the_options_of_a_repository_line_are_kept(line: str, signed: str) -> None:
    assert signed_by(line, "/k") == signed


@pytest.mark.parametrize(("memory", "heap"), [(24000, 8000), (200_000, 31 * 1024), (200, 128)])
def test_the_heap_is_a_third_of_the_memory_within_limits(memory: int, heap: int) -> None:
    assert search_files.heap_mb(settings().search, memory) == heap


def test_more_heap_than_memory_is_refused() -> None:
    with pytest.raises(SettingsError, match="heap_mb is 30000 and this machine has 24000 MiB"):
        wishes(settings(heap_mb=30000), "be1", MACHINE)


def test_map_count_is_raised_only_where_that_is_possible() -> None:
    assert not named(wishes(settings(), "be1", MACHINE), "sysctl.present")
    assert named(wishes(settings(), "be1", Machine(24000, raise_maps=True)), "sysctl.present") == ["vm.max_map_count"]


def test_a_java_of_ones_own_is_named_in_the_unit_and_no_package_is_installed() -> None:
    found = wishes(settings(java_home="/opt/java"), "be1", MACHINE)
    assert " OPENSEARCH_JAVA_HOME=/opt/java\n" in text_of(found, "/etc/systemd/system/chefha-search.service")
    assert not named(found, "pkg.installed")


# ---- the pillar


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        ({"source": {}}, "chefha:search:source is missing although chefha:search:flavor is opensearch"),
        ({"source": {**ARCHIVE, "package": "opensearch"}}, "has both archive and package"),
        ({"source": {"archive": "opensearch.tar.gz"}}, "source:archive is 'opensearch.tar.gz'; expected"),
        ({"source": {"archive": "/srv/opensearch.rpm"}}, "expected a .tar.gz, .tgz or .zip"),
        ({"source": {"archive": ARCHIVE["archive"]}}, "source:checksum is missing"),
        ({"source": {**ARCHIVE, "checksum": "sha256=12"}}, "64 hexadecimal digits"),
        ({"source": {**ARCHIVE, "checksum": SUM}}, "64 hexadecimal digits"),
        ({"source": {"package": "open search"}}, "expected the name of a Debian package"),
        ({"source": {"package": "opensearch", "repository": "https://x"}}, "expected a line such as deb"),
        ({"source": {"package": "opensearch", "repository_key": "x"}}, "no armoured OpenPGP key"),
        ({"version": "newest"}, "expected a version such as 1.3.20"),
        ({"java_home": "java"}, "java_home is 'java'"),
        ({"java_opts": ["-Xmx4g"]}, "set chefha:search:heap_mb instead"),
        ({"java_opts": ["Dx=1"]}, "each beginning with '-'"),
        ({"parameters": {"cluster.name": "x"}}, "set chefha:cluster instead"),
        ({"parameters": {"discovery.type": "single-node"}}, "which the cluster rests on"),
        ({"parameters": {"network.host": "0.0.0.0"}}, "which the cluster rests on"),
        ({"parameters": {"cluster.initial_master_nodes": ["be1"]}}, "which the cluster rests on"),
        ({"parameters": {"indices.x": {"a": 1}}}, "expected a text, number or boolean"),
    ],
)
def test_a_wrong_pillar_is_refused_in_one_sentence(search: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**search)
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("archive", ["/srv/es.zip", "salt://chefha/files/os.tar.gz"])
def test_what_is_on_the_file_server_or_the_member_needs_no_checksum(archive: str) -> None:
    assert settings(source={"archive": archive}).search.source.archive == archive


def test_parameters_stand_in_the_configuration() -> None:
    text = search_files.config_text(settings(parameters={"action.auto_create_index": False, "x.list": ["a", 1]}), "be1")
    assert yaml.safe_load(text)["action.auto_create_index"] is False
    assert yaml.safe_load(text)["x.list"] == ["a", 1]
