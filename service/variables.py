"""`EMMDIT_*` variables: how they are named, which are refused, and what is said of a value that is not allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from service.errors import ConfigurationError

ENV_PREFIX = "EMMDIT_"
FILE_SUFFIX = "_FILE"  # EMMDIT_X_FILE names the file that holds the secret EMMDIT_X
CLIENT_VARIABLES = frozenset({"EMMDIT_URL", "EMMDIT_API_KEY"})  # read by the commands that talk to a service


def variable(name: str) -> str:
    """The variable of a setting."""
    return f"{ENV_PREFIX}{name.upper()}"


def written(value: object) -> str:
    """A value as a variable has it."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of an environment, for settings with these fields."""

    fields: Mapping[str, FieldInfo]
    environ: Mapping[str, str]

    def secret_names(self) -> list[str]:
        """Settings that are secrets."""
        return [name for name in self.fields if self._is_secret(name)]

    def refuse_unknown(self) -> None:
        """Raises ConfigurationError for a variable of ours that no setting has, naming the one most like it."""
        files = {variable(name) + FILE_SUFFIX for name in self.secret_names()}
        known = {variable(name) for name in self.fields} | CLIENT_VARIABLES | files
        for name in sorted(self.environ):
            if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
                near = difflib.get_close_matches(name.upper(), known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                if "_PORT_" in name or "_SERVICE_" in name:  # Kubernetes writes these for a Service called "emmdit"
                    hint = "; Kubernetes set it for a Service of that name: set enableServiceLinks: false on the pod"
                raise ConfigurationError(f"unknown environment variable {name}{hint}")

    def secrets_in_files(self) -> dict[str, str]:
        """Secrets whose variables name a file; one that is set itself wins. Raises ConfigurationError."""
        found = {}
        for name in self.secret_names():
            of_file = variable(name) + FILE_SUFFIX
            path = self.environ.get(of_file)
            if path and variable(name) not in self.environ:
                try:
                    found[name] = Path(path).read_text("utf-8").strip()
                except (OSError, UnicodeDecodeError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "it is no text"
                    raise ConfigurationError(f"{of_file}: cannot read {path!r}: {reason}") from None
        return found

    def sentence(self, item: ErrorDetails, given: Mapping[str, object]) -> str:
        """One pydantic complaint as one sentence. The value of a secret is never shown."""
        if not item["loc"]:
            return str(item["msg"]).removeprefix("Value error, ")
        name = str(item["loc"][0])
        if name not in self.fields:
            near = difflib.get_close_matches(name, self.fields, n=1)
            return f"unknown setting {name}" + (f"; did you mean {near[0]}?" if near else "")
        source = name if name in given else variable(name)
        value = given[name] if name in given else self.environ.get(source, "")
        shown = "its value" if self._is_secret(name) else repr(value)[:80]
        return f"{source}: {shown} is not allowed: {item['msg'].removeprefix('Value error, ')}"

    def _is_secret(self, name: str) -> bool:
        return self.fields[name].annotation == SecretStr | None
