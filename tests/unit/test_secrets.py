"""Secrets of a cluster: what is generated is accepted by OpenSSL, and what is wrong is said in words."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chefha_core.authority import check_certificate
from chefha_core.checked import SettingsError
from chefha_core.layout.catalogue import checked
from chefha_core.secrets import generate
from chefha_core.settings import SECRETS_OF

MEMBERS = {"be1": "10.0.0.1", "be2.example.org": "10.0.0.2", "be3": "10.0.0.3"}
VIP = "10.0.0.9"
GOOD_FOR = ["be1", "be2.example.org", "be3", *MEMBERS.values(), VIP, "localhost", "127.0.0.1"]


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, str]]:
    return generate(MEMBERS, VIP)


def check(made: dict[str, dict[str, str]], addresses: list[str] | None = None, **changed: str) -> list[str]:
    tls = {**made["tls"], **changed}
    return check_certificate(tls["ca"], tls["certificate"], tls["key"], GOOD_FOR if addresses is None else addresses)


def test_shape(made: dict[str, dict[str, str]]) -> None:
    assert set(made) == {"secrets", "tls"}
    assert set(made["secrets"]) == set(SECRETS_OF["backend"])
    assert set(made["tls"]) == {"ca", "certificate", "key"}
    assert len(set(made["secrets"].values())) == len(SECRETS_OF["backend"])
    for password in made["secrets"].values():
        assert len(password) == 48
        assert password.isalnum()
    assert generate(MEMBERS, VIP)["secrets"] != made["secrets"]


def test_good_for_all_members(made: dict[str, dict[str, str]]) -> None:
    assert check(made) == []


def test_no_common_name(made: dict[str, dict[str, str]]) -> None:
    for name in ("ca", "certificate"):
        certificate = x509.load_pem_x509_certificate(made["tls"][name].encode())
        assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME) == []


def test_the_key_of_the_authority_is_gone(made: dict[str, dict[str, str]]) -> None:
    assert made["tls"]["key"].count("PRIVATE KEY") == 2
    assert "PRIVATE" not in made["tls"]["ca"] + made["tls"]["certificate"]


def test_missing_name(made: dict[str, dict[str, str]]) -> None:
    assert check(made, [VIP, "10.0.0.7", "be9"]) == [
        "the certificate does not name 10.0.0.7",
        "the certificate does not name be9",
    ]


def test_key_of_another(made: dict[str, dict[str, str]]) -> None:
    other = generate(MEMBERS, VIP)
    assert check(made, key=other["tls"]["key"]) == ["the key does not belong to the certificate"]
    assert "not a private key" in check(made, key="nonsense")[0]


def test_wrong_authority_and_both_during_a_rotation(made: dict[str, dict[str, str]]) -> None:
    other = generate(MEMBERS, VIP)
    assert check(made, ca=other["tls"]["ca"]) == ["the certificate was not issued by this authority (ca)"]
    assert check(made, ca=other["tls"]["ca"] + made["tls"]["ca"]) == []
    assert "(ca) is not a certificate" in check(made, ca="nonsense")[0]
    assert "not a certificate" in check(made, certificate="")[0]


def test_dates(made: dict[str, dict[str, str]]) -> None:
    tls = made["tls"]
    now = datetime.datetime.now(datetime.UTC)
    for years, word in ((11, "expired on"), (-1, "not valid before")):
        problems = check_certificate(
            tls["ca"], tls["certificate"], tls["key"], [], now=now + datetime.timedelta(days=365.25 * years)
        )
        assert len(problems) == 2
        assert all(word in problem for problem in problems)
    later = now + datetime.timedelta(days=365 * 9.9)
    assert check_certificate(tls["ca"], tls["certificate"], tls["key"], [], now=later) == []


def self_issued(name: x509.NameAttribute, *usages: x509.ObjectIdentifier) -> tuple[str, str]:
    """A certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.datetime.now(datetime.UTC)
    own = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([name]))
        .issuer_name(x509.Name([name]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start - datetime.timedelta(days=1))
        .not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return own, pem


def test_a_certificate_for_servers_only() -> None:
    own, pem = self_issued(x509.NameAttribute(NameOID.ORGANIZATION_NAME, "self"), ExtendedKeyUsageOID.SERVER_AUTH)
    assert check_certificate(own, own, pem, ["be1"]) == [
        "the certificate is not meant for a client, and the members use it as both",
        "the certificate does not name be1",
    ]


def test_a_common_name_is_refused_where_the_members_run_etcd() -> None:
    both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    own, pem = self_issued(x509.NameAttribute(NameOID.COMMON_NAME, "be1"), *both)
    assert check_certificate(own, own, pem, []) == [
        "the certificate has a CommonName (CN=be1), which etcd takes for a user; issue one without"
    ]
    assert check_certificate(own, own, pem, [], own_etcd=True) == []


def test_an_authority_may_have_a_common_name(made: dict[str, dict[str, str]]) -> None:
    authority, _ = self_issued(x509.NameAttribute(NameOID.COMMON_NAME, "an authority"))
    assert check(made, ca=authority + made["tls"]["ca"]) == []


def test_the_pillar_of_a_member_is_refused_for_it_and_that_of_a_front_end_is_not() -> None:
    both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    own, pem = self_issued(x509.NameAttribute(NameOID.COMMON_NAME, "be1"), *both)
    pillar = {
        "members": {"be1": "10.0.0.1", "be2": "10.0.0.2", "be3": "10.0.0.3"},
        "vip": VIP,
        "frontends": {"fe1": "10.0.0.31"},
        "search": {"source": {"package": "search-engine"}},
        "secrets": dict.fromkeys(SECRETS_OF["backend"], "a"),
        "tls": {"ca": own, "certificate": own, "key": pem},
    }
    with pytest.raises(SettingsError, match=r"^pillar chefha:tls: the certificate has a CommonName \(CN=be1\)"):
        checked(pillar, "be1")
    assert checked(pillar, "fe1").tls.ca == own


@pytest.mark.parametrize("name", ["be2.example.org", "127.0.0.1", VIP])
def test_f55_openssl_accepts_both_sides(made: dict[str, dict[str, str]], tmp_path: Path, name: str) -> None:
    for file, text in made["tls"].items():
        (tmp_path / file).write_text(text)
    pair = (tmp_path / "certificate", tmp_path / "key")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ca")
    client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tmp_path / "ca")
    for context in (server, client):
        context.load_cert_chain(*pair)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    here, there = socket.socketpair()
    heard: list[bytes] = []

    def serve() -> None:
        with server.wrap_socket(there, server_side=True) as secure:
            heard.append(secure.recv(9))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with client.wrap_socket(here, server_hostname=name) as secure:
        secure.sendall(b"hello")
    thread.join(5)
    assert heard == [b"hello"]
