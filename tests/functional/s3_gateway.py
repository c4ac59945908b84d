"""A real S3-compatible server for tests: S3Proxy, from Maven Central, over a folder, on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from chefha_core.settings import S3

VERSION = "2.6.0"
JARS = Path(__file__).resolve().parents[2] / ".cache" / f"s3proxy-{VERSION}"
SECRET = "secret-of-the-test"
_POM = f"""\
<project><modelVersion>4.0.0</modelVersion><groupId>none</groupId><artifactId>none</artifactId><version>1</version>
<dependencies><dependency><groupId>org.gaul</groupId><artifactId>s3proxy</artifactId><version>{VERSION}</version>
</dependency></dependencies></project>
"""
_QUIET = """\
<configuration><appender name="e" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%msg%n</pattern>
</encoder></appender><root level="WARN"><appender-ref ref="e"/></root></configuration>
"""


def fetch() -> None:
    """S3Proxy and what it needs, once."""
    if JARS.exists():
        return
    JARS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=JARS.parent) as folder:
        (Path(folder) / "pom.xml").write_text(_POM)
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
        argv = ["mvn", "-q", "-B", goal, "-DincludeScope=runtime", "-DoutputDirectory=jars"]
        subprocess.run(argv, cwd=folder, check=True, timeout=600, stdin=subprocess.DEVNULL)
        (Path(folder) / "jars").rename(JARS)


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[S3]:
    """The running server with an empty bucket, and how it is reached."""
    fetch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    (folder / "objects" / "backups").mkdir(parents=True)
    lines = {
        "s3proxy.endpoint": endpoint,
        "s3proxy.authorization": "aws-v2-or-v4",
        "s3proxy.identity": "tester",
        "s3proxy.credential": SECRET,
        "jclouds.provider": "filesystem-nio2",
        "jclouds.identity": "none",
        "jclouds.credential": "none",
        "jclouds.filesystem.basedir": str(folder / "objects"),
    }
    (folder / "s3proxy.conf").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    (folder / "quiet.xml").write_text(_QUIET)
    argv = ["java", "-Xmx256m", f"-Dlogback.configurationFile={folder}/quiet.xml", "-cp", f"{JARS}/*"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*argv, "org.gaul.s3proxy.Main", "--properties", str(folder / "s3proxy.conf")], stdout=log, stderr=log
        )
    try:
        _await(endpoint, server, folder / "log")
        yield S3("backups", "chef/test", endpoint, access_key="tester", secret_key=SECRET)
    finally:
        server.kill()
        server.wait()


def _await(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(endpoint, timeout=10).close()
                return
            except urllib.error.HTTPError:
                return  # it answers, if only that one has to sign in
        assert server.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)
