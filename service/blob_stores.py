"""The one place that turns settings into a blob store, for gateways, workers and the doctor alike."""

from __future__ import annotations

from pathlib import Path

from service.blobs import BLOBS_FOLDER, BlobStore, DirectoryBlobs
from service.errors import ConfigurationError
from service.settings import S3_PLACE, Settings


def open_blobs(settings: Settings) -> BlobStore:
    """The store that `blob_url` names. It is reached when it is first used. The caller closes it.

    Raises ConfigurationError for one that can never work.
    """
    url = settings.blob_url.get_secret_value() if settings.blob_url else ""
    keep_s = blobs_keep_s(settings)
    if url == "redis":
        url = settings.queue_url() or ""
        if not url:
            raise ConfigurationError(
                "blob_url: 'redis' is the queue's server, and redis_url (EMMDIT_REDIS_URL) is not set"
            )
    if match := S3_PLACE.fullmatch(url):
        from service.s3_blobs import S3Blobs  # an optional extra, and a large one

        endpoint, region = settings.s3_endpoint_url, settings.s3_region
        return S3Blobs(match["bucket"], match["prefix"] or "", keep_s=keep_s, endpoint_url=endpoint, region=region)
    if "://" in url:
        from service.redis_blobs import RedisBlobs

        return RedisBlobs(url, keep_s=keep_s, max_bytes=settings.blob_max_bytes)
    root = Path(url).expanduser() if url else settings.data_dir / BLOBS_FOLDER
    try:
        return DirectoryBlobs(root, keep_s=keep_s, min_free_bytes=settings.min_free_bytes)
    except OSError as error:
        raise ConfigurationError(f"blob_url: pictures cannot be kept in {root}: {error.strerror}") from error


def blobs_keep_s(settings: Settings) -> float:
    """A picture is written before its job's result begins to age: it is kept as much longer as a job can run."""
    return settings.result_ttl_s + settings.max_timeout_s
