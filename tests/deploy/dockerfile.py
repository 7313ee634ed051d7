"""The Dockerfile, read as far as tests need it: stages, their instructions, and a shell that carries out RUN and COPY.

No container is made: every absolute path of the image that the steps write to lies below one folder instead.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_MOVED = re.compile(r"(?<![\w./])/(tmp|lock|wheel|source|sbom-maker|sbom\.cdx\.json|usr/share/emmdit)\b")


@dataclass(frozen=True)
class Stage:
    """`instructions` are pairs of name and text, lines joined."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]


def read_dockerfile(text):
    """ARGs before the first stage, and the stages by name."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    arguments, stages = {}, {}
    lines = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    name, base, own = "", "", []
    for instruction, rest in [*lines, ("FROM", "end AS end")]:
        if instruction == "FROM":
            if name:
                stages[name] = Stage(name, base, tuple(own))
            base, name = rest.split(" AS ")
            own = []
        elif not name:
            key, _, value = rest.partition("=")
            arguments[key] = value
        else:
            own.append((instruction, rest.strip()))
    return arguments, stages


class Shell:
    """Carries out stages in `root`, with `environment`'s programs, from the build context `context`."""

    def __init__(self, root, context, environment):
        self._root, self._context = root, context
        self._environment = environment
        (root / "tmp").mkdir(parents=True)
        (root / "usr/share/emmdit").mkdir(parents=True)

    def path(self, text):
        return Path(self._moved(text))

    def carry_out(self, stage, *, but=lambda text: False):
        """RUN, COPY and WORKDIR; not the RUNs that `but` picks out."""
        folder = self._root
        for instruction, text in stage.instructions:
            if instruction == "WORKDIR" and _MOVED.match(text):
                folder = self.path(text)
                folder.mkdir(parents=True, exist_ok=True)
            elif instruction == "COPY":
                self._copy(text, folder)
            elif instruction == "RUN" and not but(text):
                self._run(re.sub(r"--mount=\S+\s+", "", text), folder)

    def _copy(self, text, folder):
        *sources, target = text.split()
        is_from_stage = sources[0].startswith("--from=")
        place = self.path(target) if target.startswith("/") else folder / target
        for source in sources[1:] if is_from_stage else sources:
            origin = self.path(source) if is_from_stage else self._context / source
            if origin.is_dir():
                shutil.copytree(origin, place, dirs_exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(origin, place)

    def _run(self, text, folder):
        if text.startswith("["):
            command = [self._moved(part) for part in json.loads(text)]
        else:
            command = ["bash", "-e", "-o", "pipefail", "-c", self._moved(text)]
        result = subprocess.run(
            command, cwd=folder, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert result.returncode == 0, f"RUN {text}\n{result.stdout}"

    def _moved(self, text):
        return _MOVED.sub(lambda found: f"{self._root}/{found[1]}", text)


def build_context(root, target):
    """What .dockerignore lets through of `root`, laid in `target`. Knows the forms that ours has, and no others."""
    rules = [line for line in (root / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert rules[0] == "*", "everything is left out by default"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    refused = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    target.mkdir()
    for name in allowed:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns(*refused))
        else:
            shutil.copy(root / name, target / name)
    return sorted(str(Path(folder, name).relative_to(target)) for folder, _, names in os.walk(target) for name in names)
