"""How this host reaches packages (mirror, proxy, CA bundle, pip's and Maven's settings), handed to the image build.

Nothing of it is written into the project: it goes into the build context in memory, and only the build stages that are
thrown away see the CA bundle and the settings.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout")
APT_OPTIONS = ("Acquire::Check-Valid-Until", "Acquire::Check-Date", "Acquire::Retries")
MAVEN_SETTINGS = Path.home() / ".m2/settings.xml"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")


def debian_mirror() -> str:
    """URL of the Debian mirror the host uses; empty on other systems or where apt is not configured."""
    for site in _output(["apt-get", "indextargets", "--format", "$(SITE)"]).split():
        if re.search(r"/debian/?$", site):
            return site
    return ""


def build_args() -> dict[str, str]:
    """Build arguments: the mirror, apt's options, proxies (which Docker itself keeps out of the image)."""
    dump = _output(["apt-config", "dump"])
    options = [f"-o {m[1]}={m[2]}" for m in re.finditer(r'^(\S+) "(.*)";$', dump, re.M) if m[1] in APT_OPTIONS]
    args = {"APT_OPTIONS": " ".join(options), "MIRROR": debian_mirror()}
    args.update({name: os.environ[name] for name in PROXIES if os.environ.get(name)})
    proxy = re.search(r'^Acquire::http::Proxy "(http[^"]+)";$', dump, re.M)
    if proxy:
        args.setdefault("http_proxy", proxy[1])
    return {name: value for name, value in args.items() if value}


def build_files() -> dict[str, bytes]:
    """Files for the build context, empty where the host has nothing to say: `ca.pem`, `pip.conf`, `settings.xml`."""
    settings = _pip_settings()
    bundle = next((os.environ[name] for name in CA_VARIABLES if os.environ.get(name)), settings.get("cert", ""))
    pem = Path(bundle).read_bytes() if bundle and Path(bundle).is_file() else b""
    kept = [f"{name} = {value}" for name, value in settings.items() if name in PIP_OPTIONS]
    maven = MAVEN_SETTINGS.read_bytes() if MAVEN_SETTINGS.is_file() else b""
    return {"ca.pem": pem, "pip.conf": "\n".join(["[global]", *kept, ""]).encode(), "settings.xml": maven}


def _pip_settings() -> dict[str, str]:
    """Effective pip options (files, then environment) by name."""
    lines = _output([sys.executable, "-m", "pip", "config", "list"])
    found = re.findall(r"^[\w:.-]*\.([\w-]+)='(.*)'$", lines, re.M)
    return {name: value.replace("\\n", "\n    ") for name, value in found}


def _output(command: list[str]) -> str:
    """What a command prints; empty where it is missing or fails: the host then simply has no such setting."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
