"""A service for one command: queue server, gateway and worker, on a free loopback port, in a folder of their own."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import ConfigurationError
from service.settings import Settings, load_settings

POLL_S = 0.1


@contextmanager
def local_service(model: str | None, device: str | None) -> Iterator[str]:
    """The address of a service with one model, up until the block ends. Nothing of it stays behind.

    Raises ConfigurationError or BundleError where it cannot start.
    """
    # Imported by the main thread: it is what Ctrl-C interrupts.
    from model.catalog import resolve_bundles
    from service.supervisor import Supervisor

    with tempfile.TemporaryDirectory(prefix="emmdit-") as folder:
        settings = _settings(model, device, Path(folder))
        names = [bundle.card.name for bundle in resolve_bundles(settings.models, settings.models_dir)]
        is_ready = threading.Event()
        failures: list[Exception] = []
        supervisor = Supervisor(settings, names, lambda _: is_ready.set())

        def run() -> None:
            try:
                supervisor.run()
            except Exception as error:  # told by the main thread
                failures.append(error)

        thread = threading.Thread(target=run, name="service")
        thread.start()
        try:
            while not is_ready.wait(POLL_S):
                if not thread.is_alive():
                    raise failures[0] if failures else ConfigurationError("the service ended before it was ready")
            yield supervisor.address
        finally:
            # Twice: at once. Whatever is not finished now, nobody waits for.
            supervisor.stop()
            supervisor.stop()
            thread.join()


def _settings(model: str | None, device: str | None, folder: Path) -> Settings:
    given = load_settings(models=model, device=device, host="127.0.0.1", port=0, data_dir=folder)
    # A queue of others, with workers of others, is not what a command of one's own should use.
    redis = ("redis_url", "redis_password", "redis_ca_file", "redis_cert_file", "redis_key_file")
    changes: dict[str, object] = {"models": given.models[:1], **dict.fromkeys(redis)}
    if "log_level" not in given.model_fields_set:
        changes["log_level"] = "error"
    if "compile_network" not in given.model_fields_set:
        changes["compile_network"] = False  # it takes longer than most commands run
    return given.model_copy(update=changes)
