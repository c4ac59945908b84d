"""The lab's Debian repository, made here with the real tools: what is in its packages, and that its signature holds."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from lab.repository import SCRIPT, _signed
from lab.standin import deb

ENV_SCRIPT = '#!/bin/bash\nif [ -z "$ES_PATH_CONF" ]; then ES_PATH_CONF="$ES_HOME"/config; fi\ncd "$ES_HOME"\n'


def debs(*words: str) -> None:
    subprocess.run([sys.executable, str(SCRIPT), *words], check=True)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An engine's archive in miniature, its programs not executable, as Python's zipfile leaves them."""
    path = tmp_path / "elasticsearch-7.17.9.zip"
    files = {
        "bin/elasticsearch": "#!/bin/sh\n",
        "bin/elasticsearch-env": ENV_SCRIPT,
        "config/elasticsearch.yml": "a: b\n",
        "lib/x.jar": "",
    }
    with zipfile.ZipFile(path, "w") as made:
        for name, text in files.items():
            made.writestr(f"elasticsearch-7.17.9/{name}", text)
    return path


def test_a_package_is_laid_out_as_the_makers_own(tmp_path: Path, archive: Path) -> None:
    debs("search", "elasticsearch", str(archive), str(tmp_path / "pool"), "7.17.9", "7.17.9+again")
    package = tmp_path / "pool/elasticsearch_7.17.9_all.deb"
    subprocess.run(["dpkg-deb", "-x", str(package), str(tmp_path / "root")], check=True)
    root = tmp_path / "root"
    assert os.access(root / "usr/share/elasticsearch/bin/elasticsearch", os.X_OK)
    assert (root / "etc/elasticsearch/elasticsearch.yml").is_file()
    assert "source /etc/default/elasticsearch\n" in (root / "usr/share/elasticsearch/bin/elasticsearch-env").read_text()
    assert "ES_PATH_CONF=/etc/elasticsearch\n" in (root / "etc/default/elasticsearch").read_text()
    shown = subprocess.run(["dpkg-deb", "-f", str(package)], check=True, capture_output=True, text=True).stdout
    assert "not the maker's own package" in shown and "Version: 7.17.9\n" in shown


def test_the_index_names_every_package_and_its_signature_holds(tmp_path: Path) -> None:
    for version in ("15.10.117", "15.10.118"):
        deb.build(tmp_path / "pool", version)
    debs("index", str(tmp_path))
    [packages] = (tmp_path / "dists/stable/main").glob("binary-*/Packages")
    text = packages.read_text()
    assert text.count("Package: chef-server-core\n") == 2
    assert "Filename: pool/chef-server-core_15.10.118-1_all.deb\n" in text
    release = (tmp_path / "dists/stable/Release").read_text()
    assert f" {packages.stat().st_size} {packages.relative_to(tmp_path / 'dists/stable')}" in release
    signed, key = _signed(release)
    (tmp_path / "InRelease").write_bytes(signed)
    (tmp_path / "key.asc").write_bytes(key)
    subprocess.run(["gpg", "--dearmor", "-o", str(tmp_path / "key.gpg"), str(tmp_path / "key.asc")], check=True)
    command = ["gpgv", "--keyring", str(tmp_path / "key.gpg"), str(tmp_path / "InRelease")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (tmp_path / "InRelease").write_bytes(signed.replace(b"chefha-lab", b"somebody-x"))
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
