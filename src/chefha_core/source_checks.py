"""Where software comes from, the same for search and front ends: a file with its checksum, or a Debian package."""

from __future__ import annotations

import re

from chefha_core.settings import Frontend, SearchSource

PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+")
#: hexadecimal digits of a checksum
DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}


def checksum_problem(path: str, file: str, checksum: str) -> str:
    """Why this is no checksum of ``file``, a sentence that names the pillar's ``path``; "" if it is one."""
    kind, _, digits = checksum.partition("=")
    if checksum and not re.fullmatch(f"[0-9a-f]{{{DIGITS.get(kind, 0)}}}", digits or "-"):
        return f"{path}:checksum is {checksum!r}; expected sha256= and 64 hexadecimal digits, or sha384, sha512"
    if file.startswith("http") and not checksum:
        return f"{path}:checksum is missing; what comes from {file} must have one, such as sha256=0123…"
    return ""


def package_problem(path: str, source: SearchSource | Frontend) -> str:
    """The same of a package and the repository that has it."""
    if not PACKAGE.fullmatch(source.package):
        return f"{path}:package is {source.package!r}; expected the name of a Debian package"
    if source.repository and not re.fullmatch(r"deb \S.*", source.repository):
        return f"{path}:repository is {source.repository!r}; expected a line such as deb https://… stable main"
    if source.repository_key and "-----BEGIN PGP PUBLIC KEY BLOCK-----" not in source.repository_key:
        return f"{path}:repository_key is no armoured OpenPGP key; expected the text that begins with -----BEGIN PGP"
    return ""
