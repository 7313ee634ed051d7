"""What the tests of the files in deploy share."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.settings import ENV_PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
SECRETS = "/run/secrets/"


def check(tool, *arguments):
    """Run a linter that is installed beside this Python; its complaints become the test's."""
    command = [Path(sys.executable).with_name(tool), *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def load_settings_of(variables, folder):
    """The settings that a container with these variables has. Raises ConfigurationError for unknown or bad ones.

    Secrets that it reads from files are made up, in `folder`.
    """
    secret = folder / "secret"
    secret.write_text("s" * 40, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(_known_names()):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, str(secret) if value.startswith(SECRETS) else value)
        return load_settings()


def _known_names():
    return (f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields)


@contextmanager
def refuses(part):
    """The check inside complains, with `part` in what it says."""
    with pytest.raises(AssertionError, match=part):
        yield
