"""Coverage-guided search for inputs that break a target: `python -m tests.fuzz TARGET --seconds 120`.

Reads and extends tests/fuzz/corpus/TARGET; what breaks the target lands in build/fuzz. `--minimise` cuts the corpus
down instead, and needs no atheris.
"""

import argparse
import logging
import sys
from pathlib import Path

from tests.fuzz.minimise import minimise

CORPUS = Path(__file__).parent / "corpus"
DICTIONARY = Path(__file__).parent / "words.dict"


def search(name, seconds):
    """Does not return."""
    import atheris

    logging.disable(logging.CRITICAL)
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=["service", "h11", "uvicorn.protocols", "tests.fuzz.targets"]):
        from tests.fuzz.targets import TARGETS
    found = Path("build/fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    arguments = [f"-dict={DICTIONARY}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=4096"]
    arguments += [f"-max_total_time={seconds}", f"-artifact_prefix={found}/", str(CORPUS / name)]
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=sorted(path.name for path in CORPUS.iterdir()))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--minimise", action="store_true")
    options = parser.parse_args()
    if options.minimise:
        from tests.fuzz.targets import TARGETS

        sys.stdout.write(f"{minimise(TARGETS[options.target], CORPUS / options.target)} inputs left\n")
        return
    search(options.target, options.seconds)


main()
