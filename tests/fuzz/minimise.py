"""A corpus cut down to the inputs that reach something of their own, the shortest of those that reach the same."""

import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
KEPT = ("seed", "found")  # how inputs begin that stay whatever they reach


def minimise(target, folder):
    """Delete what adds no step from one line to the next. Returns how many are left."""
    reached = set()
    paths = sorted(folder.iterdir(), key=lambda path: (not path.name.startswith(KEPT), path.stat().st_size, path.name))
    for path in paths:
        steps = _steps(target, path.read_bytes())
        if steps <= reached and not path.name.startswith(KEPT):
            path.unlink()
        reached |= steps
    return len(list(folder.iterdir()))


def _steps(target, data):
    """(file, line, next line) of everything of ours and of the parser's that runs."""
    steps = set()

    def watch(frame, event, _):
        name = frame.f_code.co_filename
        if "/h11/" not in name and not name.startswith((str(ROOT / "service"), str(ROOT / "tests"))):
            return None
        last = frame.f_lineno

        def step(frame, event, _):
            nonlocal last
            steps.add((name, last, frame.f_lineno, event))
            last = frame.f_lineno
            return step

        return step

    sys.settrace(watch)
    try:
        with suppress(Exception):
            target(data)
    finally:
        sys.settrace(None)
    return steps
