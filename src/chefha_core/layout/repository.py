"""A Debian repository of somebody else's, trusted by its own key alone."""

from __future__ import annotations

from chefha_core.layout.wish import Wish, folder, text_file


def repository(name: str, line: str, key: str) -> list[Wish]:
    """A Debian repository in a file of its own, its key trusted for this one alone."""
    if not line:
        return []
    ring = f"/etc/apt/keyrings/{name}.asc"
    keys = [folder("/etc/apt/keyrings"), text_file(ring, key)] if key else []
    text = signed_by(line, ring) if key else line
    return [*keys, text_file(f"/etc/apt/sources.list.d/{name}.list", text)]


def signed_by(line: str, ring: str) -> str:
    """``deb URL …`` with the option that says which key counts, unless it says so already."""
    kind, _, rest = line.strip().partition(" ")
    options, _, rest = rest.strip()[1:].partition("]") if rest.strip().startswith("[") else ("", "", rest)
    if "signed-by=" not in options:
        options = f"{options} signed-by={ring}".strip()
    return f"{kind} [{options.strip()}] {rest.strip()}"
