"""The settings by themselves: the page of all of them, and a sample with every default, in both forms."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chefha_core.settings import Settings
from chefha_core.settings_checks import CHECKS
from chefha_core.verbs.reach import VerbError

FORMATS = ("pillar", "chef-backend.rb")
INTRO = {
    "pillar": """\
# Every setting with its default. What has none must be filled in: members, vip, and the secrets and certificates, which
# `salt-run chefha.secrets` makes on the master or `chef-backend-ctl gen-secrets` prints. null: chefha chooses.
""",
    "chef-backend.rb": """\
# Every setting with its default, as chef-backend.rb wrote them: to be read beside an old file. What counts is the
# pillar, whose form `chef-backend-ctl gen-sample-backend-config` prints. nil: chefha chooses.
""",
}
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", tuple: "list", dict: "mapping"}


@dataclass(frozen=True)
class Entry:
    """One setting, or a branch with more settings below (then without a default)."""

    path: tuple[str, ...]
    branch: bool
    kind: str
    help: str
    limits: str
    required: bool
    default: Any


def entries(kind: type = Settings, above: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Every setting in the order of the classes: first those of a branch itself, then the branches below it."""
    hints = typing.get_type_hints(kind)
    fields = sorted(dataclasses.fields(kind), key=lambda field: dataclasses.is_dataclass(hints[field.name]))
    for field in fields:
        below = hints[field.name]
        path, help_ = (*above, field.name), str(field.metadata["help"])
        if dataclasses.is_dataclass(below):
            yield Entry(path, True, "branch", help_, "", False, None)
            yield from entries(typing.cast(type, below), path)
            continue
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        required = default is dataclasses.MISSING
        yield Entry(path, False, _kind(below), help_, _limits(field.metadata), required, None if required else default)


def _kind(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    return _WORDS[typing.get_origin(kind) or kind]


def _limits(metadata: Any) -> str:
    if metadata.get("choices"):
        return ", ".join(map(str, metadata["choices"]))
    least, most = metadata.get("least"), metadata.get("most")
    if least is not None and most is not None:
        return f"{least} to {most}"
    return f"at least {least}" if least is not None else f"at most {most}" if most is not None else ""


# ---- the page


def reference() -> str:
    """docs/pillar.md: one table per branch, and what must hold between settings."""
    tables: dict[tuple[str, ...], tuple[str, list[str]]] = {(): ("the cluster", [])}
    for entry in entries():
        if entry.branch:
            tables[entry.path] = (entry.help, [])
        else:
            tables[entry.path[:-1]][1].append(_row(entry))
    parts = [_section(path, words, rows) for path, (words, rows) in tables.items()]
    checks = "".join(f"- {line}\n" for line in (_in_one_line(check.__doc__) for check in CHECKS) if line)
    return f"""\
# The pillar

What stands below `chefha:` in the pillar, with every default. Only `members`, `vip` and the secrets have none. A name
that is not listed here, a wrong type or a value out of range fails the first state with one sentence that names the
path and what was expected, and nothing is applied; `salt '*' chefha.validate_pillar` says the same without a highstate.
`chef-backend-ctl gen-sample-backend-config` prints all of it as a pillar to start from. (This page is made from the
code: `make docs`.)

{"".join(parts)}## What must hold between settings

{checks}"""


def _section(path: tuple[str, ...], words: str, rows: list[str]) -> str:
    title = f"`chefha:{':'.join(path)}`" if path else "`chefha`"
    head = "| setting | type | default | accepted | meaning |\n|---|---|---|---|---|\n"
    return f"## {title}: {words}\n\n{head}{''.join(rows)}\n"


def _row(entry: Entry) -> str:
    default = "**required**" if entry.required else f"`{_json(entry.default)}`"
    cells = (f"`{entry.path[-1]}`", entry.kind, default, entry.limits, entry.help)
    return "".join(f"| {cell.replace('|', chr(92) + '|')} " for cell in cells) + "|\n"


def _in_one_line(text: str | None) -> str:
    return " ".join((text or "").split())


# ---- the sample


def gen_sample_backend_config(format: str = "pillar") -> str:
    """Every setting with its default and its meaning: YAML for the pillar, or as chef-backend.rb had them."""
    if format not in FORMATS:
        raise VerbError(f"gen-sample-backend-config: format is {format!r}; expected one of {', '.join(FORMATS)}")
    lines = _yaml() if format == "pillar" else _classic()
    return INTRO[format] + "".join(f"{line}\n" for line in lines)


def sample() -> dict[str, Any]:
    """Every setting with its default as data, as the pillar has them; what must be filled in is empty."""
    tree: dict[str, Any] = {}
    for entry in entries():
        branch = tree
        for name in entry.path[:-1]:
            branch = branch[name]
        branch[entry.path[-1]] = {} if entry.branch else _filled(entry)
    return {"chefha": tree}


def _filled(entry: Entry) -> Any:
    """Its default, or what stands in the place of one."""
    empty: Any = {} if entry.kind == "mapping" else ""
    return empty if entry.required else entry.default


def _yaml() -> Iterator[str]:
    yield "chefha:"
    for entry in entries():
        pad = "  " * len(entry.path)
        yield f"{pad}# {_explained(entry)}"
        value = "" if entry.branch else f" {_json(_filled(entry))}"
        yield f"{pad}{entry.path[-1]}:{value}"


def _classic() -> Iterator[str]:
    for entry in entries():
        if entry.branch:
            yield f"\n# ---- {entry.help}"
            continue
        yield f"# {_explained(entry)}"
        value = f"{'#' if entry.required else ''}{'.'.join(entry.path)} = "
        yield value + ("…" if entry.required else _ruby(entry.default))


def _explained(entry: Entry) -> str:
    more = ("no default",) if entry.required else (entry.limits,) if entry.limits else ()
    return entry.help + "".join(f" ({words})" for words in more)


def _ruby(value: Any) -> str:
    """A value as Ruby writes it."""
    if value is None:
        return "nil"
    if isinstance(value, dict):
        pairs = ", ".join(f"{_ruby(key)} => {_ruby(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_ruby, value))}]"
    return _json(value).replace("#", "\\#")


def _json(value: Any) -> str:
    """JSON's notation, which YAML reads."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
