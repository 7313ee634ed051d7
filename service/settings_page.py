"""docs/settings.md: run `python -m service.settings_page > docs/settings.md`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from service.settings import Settings
from service.variables import FILE_SUFFIX, Variables, variable, written


def settings_page() -> str:
    """The Markdown text of docs/settings.md."""
    secrets = Variables(Settings.model_fields, {}).secret_names()
    files = ", ".join(f"`{variable(name)}{FILE_SUFFIX}`" for name in secrets)
    lines = [
        "# Settings",
        "",
        "Written by `python -m service.settings_page`; a test keeps it up to date.",
        "",
        "Each is an environment variable and, where `emmdit ... --help` lists it, a flag; a flag wins. Unknown",
        "`EMMDIT_*` variables are refused at start-up. In Kubernetes set `enableServiceLinks: false`: for a Service",
        "called `emmdit` it would otherwise set `EMMDIT_PORT` to an address.",
        "",
        f"A secret may lie in a file, as containers have it, that one of these names: {', '.join(files)}.",
        "",
        "| variable | default | values | meaning |",
        "|---|---|---|---|",
    ]
    for name, info in Settings.model_fields.items():
        default = "unset" if info.default is None else f"`{written(info.default).replace('False', 'false')}`"
        meaning = str(info.description).replace("|", "\\|")
        lines.append(f"| `{variable(name)}` | {default} | {_values(info)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _values(info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(info.annotation))
    names: dict[object, str] = {int: "integer", float: "number", bool: "`true`, `false`"}
    names |= {Path: "path", Path | None: "path"}
    bounds = []
    for rule in info.metadata:
        for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            if (bound := getattr(rule, attribute, None)) is not None:
                bounds.append(f"{sign} {bound:g}")
    return " ".join([names.get(info.annotation, "text"), ", ".join(bounds)]).strip()


if __name__ == "__main__":
    sys.stdout.write(settings_page())
