"""Which Redis an operator's commands talk to: the one of the settings, or of an `emmdit serve` on this machine."""

from __future__ import annotations

from service.embedded import SERVER_FOLDER, running_url
from service.errors import ConfigurationError
from service.settings import Settings


def operator_redis_url(settings: Settings) -> str:
    """The address for `Queues.connect`. Raises ConfigurationError where there is none."""
    url = settings.queue_url() or running_url(settings.data_dir / SERVER_FOLDER)
    if url is None:
        raise ConfigurationError(
            f"EMMDIT_REDIS_URL is not set, and no emmdit serve runs with the data directory {settings.data_dir}"
        )
    return url
