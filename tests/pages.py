"""Pages made from the code or by a test: CHEFHA_WRITE_DOCS=1 rewrites them, otherwise they must say the same."""

from __future__ import annotations

import os
from pathlib import Path


def is_current(page: Path, text: str) -> None:
    """The page has exactly this text, or gets it."""
    if os.environ.get("CHEFHA_WRITE_DOCS"):
        page.write_text(text, encoding="utf-8")
    found = page.read_text(encoding="utf-8") if page.exists() else ""
    assert found == text, f"{page.name} is not what the code says; CHEFHA_WRITE_DOCS=1 rewrites it (`make docs`)"
