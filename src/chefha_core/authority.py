"""Certificates of one cluster: its authority, what it issues, and why a certificate would not work.

A certificate serves as server and as client, and names what its holder is reached by: names, addresses, the VIP and
loopback. It has no CommonName: etcd refuses a client certificate with one on its JSON gateway where authentication is
on, and nothing reads it any more.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: days for which an authority is good
AUTHORITY_DAYS = 7300
#: days for which a certificate is good, but never longer than its authority
LIFE_DAYS = 3650
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PEM = serialization.Encoding.PEM
_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH: "a server", ExtendedKeyUsageOID.CLIENT_AUTH: "a client"}


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, PEM texts."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Pair(…)"

    @property
    def ends(self) -> float:
        """When the certificate ends, seconds since 1970."""
        return x509.load_pem_x509_certificate(self.certificate.encode()).not_valid_after_utc.timestamp()


def new_authority(days: int = AUTHORITY_DAYS) -> Pair:
    """An authority of its own, which issues certificates and nothing else."""
    start, end = _life(days)
    # the number tells the authorities of several clusters and generations apart
    unit = f"cluster authority {secrets.token_hex(4)}"
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "chefha"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
        ]
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(name, name, key, start, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(authority: Pair, names: Iterable[str], days: int = LIFE_DAYS) -> Pair:
    """A certificate for who is reached by these names and addresses, with a fresh key."""
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    issuer_key = serialization.load_pem_private_key(authority.key.encode(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    start, end = _life(days)
    own_name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "chefha")])
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(own_name, issuer.subject, key, start, min(end, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(_USAGES)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(_general_names(names))), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issued_by(certificate_pem: str, authority_pem: str) -> bool:
    """True if the authority signed the certificate."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    return _issued(certificate, x509.load_pem_x509_certificate(authority_pem.encode()))


def check_certificate(
    ca_pem: str,
    cert_pem: str,
    key_pem: str,
    addresses: Iterable[str],
    *,
    own_etcd: bool = False,
    now: datetime.datetime | None = None,
) -> list[str]:
    """Why this certificate will not work, as sentences; [] is good.

    ``ca_pem`` may hold several authorities. ``addresses`` are the addresses and names it must be good for;
    ``own_etcd``: the members run none, so what it says of names is another's business; ``now`` (with time zone) is for
    tests and for looking ahead.
    """
    moment = now or datetime.datetime.now(datetime.UTC)
    try:
        authorities = x509.load_pem_x509_certificates(ca_pem.encode())
    except ValueError as error:
        return [f"the authority (ca) is not a certificate in PEM: {error}"]
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem.encode())
    except ValueError as error:
        return [f"the certificate is not a certificate in PEM: {error}"]
    problems = _dates("the certificate", certificate, moment)
    issuers = [authority for authority in authorities if _issued(certificate, authority)]
    if not issuers:
        problems.append("the certificate was not issued by this authority (ca)")
    elif not any(_dates("", issuer, moment) == [] for issuer in issuers):
        problems += _dates("the authority (ca)", issuers[0], moment)
    problems += _key_problem(certificate, key_pem)
    problems += _usage_problems(certificate)
    problems += [] if own_etcd else _common_name_problem(certificate)
    known = _names_of(certificate)
    problems += [f"the certificate does not name {name}" for name in addresses if _known(name) not in known]
    return problems


def _life(days: int) -> tuple[datetime.datetime, datetime.datetime]:
    now = datetime.datetime.now(datetime.UTC)
    return now - datetime.timedelta(days=1), now + datetime.timedelta(days=days)  # a node's clock may be slow


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    text = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return Pair(certificate.public_bytes(_PEM).decode(), text)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(names: Iterable[str]) -> Iterable[x509.GeneralName]:
    for name in names:
        try:
            yield x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            yield x509.DNSName(name)
            continue
        if ":" not in name:
            # libpq before 15 compares an address with DNS names only; front ends bring such a libpq of their
            # own
            yield x509.DNSName(name)


def _known(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def _names_of(certificate: x509.Certificate) -> set[str]:
    """Addresses from the address entries only: everything but an old libpq ignores addresses written as DNS
    names.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    dns = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    return addresses | {name for name in dns if not _is_address(name)}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _dates(what: str, certificate: x509.Certificate, moment: datetime.datetime) -> list[str]:
    if moment > certificate.not_valid_after_utc:
        return [f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"]
    if moment < certificate.not_valid_before_utc:
        return [f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"]
    return []


def _key_problem(certificate: x509.Certificate, key_pem: str) -> list[str]:
    try:
        key = serialization.load_pem_private_key(key_pem.encode(), None)
    except (ValueError, TypeError) as error:
        return [f"the key is not a private key in PEM without a passphrase: {error}"]
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != certificate.public_key().public_bytes(*spki):
        return ["the key does not belong to the certificate"]
    return []


def _usage_problems(certificate: x509.Certificate) -> list[str]:
    try:
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []  # without the extension every use is allowed
    return [
        f"the certificate is not meant for {name}, and the members use it as both"
        for usage, name in _USAGES.items()
        if usage not in usages
    ]


def _common_name_problem(certificate: x509.Certificate) -> list[str]:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return [
        f"the certificate has a CommonName (CN={name.value!s:.64}), which etcd takes for a user; issue one without"
        for name in names[:1]
    ]
