import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 400


def project_files(*suffixes):
    """Files of the project with one of these endings (no suffix: all), as git knows them."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the project's files are told by git, and this is no clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name.endswith(suffixes or "")]
    return [path for path in paths if path.is_file()]


def test_imports_go_the_way_the_rooms_are_drawn():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


def test_no_file_is_too_long_to_read():
    long = {}
    for path in project_files(".py", ".lua"):
        num_lines = len(path.read_text("utf-8").splitlines())
        if num_lines > MAX_LINES:
            long[str(path.relative_to(ROOT))] = num_lines
    assert not long


def test_nothing_refers_to_folders_that_only_one_machine_has():
    # Spelt in pieces, or this file would find itself.
    foreign = re.compile("|".join(["shared" + "/(design|data|hooks)", "/work" + "/", "/opt" + "/wheels"]))
    found = []
    for path in project_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if match := foreign.search(text):
            found.append(f"{path.relative_to(ROOT)}: {match[0]}")
    assert not found


def test_every_package_that_is_imported_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(part for name in ("train", "s3", "c2pa", "tracing") for part in extras[name])]
    declared = {_normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted}
    declared.add("torch")  # brought by whoever installs: docs/decisions/torch-is-not-a-dependency.md
    declared |= {"starlette", "pydantic-core"}  # the other halves of fastapi and pydantic, released with them
    distributions = packages_distributions()
    missing = {}
    for path in project_files(".py"):
        if path.relative_to(ROOT).parts[0] not in {"service", "model"}:
            continue
        for name in imported_by(path):
            owners = {_normal(owner) for owner in distributions.get(name, ())}
            if name not in sys.stdlib_module_names and name not in {"service", "model"} and not owners & declared:
                missing[name] = str(path.relative_to(ROOT))
    assert not missing


def imported_by(path):
    """First names of the packages; what stands in a text, an example say, is no import."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


def test_the_files_that_the_documents_name_exist():
    missing = []
    for page in project_files(".md"):
        if ROOT / "docs" not in page.parents and page.parent != ROOT:
            continue
        for name in re.findall(r"`((?:model|service|gateway|scripts|deploy)/[\w./-]+)`", page.read_text("utf-8")):
            places = (ROOT / name, ROOT / "service" / name, ROOT / "service" / f"{name}.lua")
            if not any(place.exists() for place in places):
                missing.append(f"{page.relative_to(ROOT)}: {name}")
    assert not missing


def test_links_between_documents_lead_somewhere():
    broken = []
    for page in project_files(".md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()
