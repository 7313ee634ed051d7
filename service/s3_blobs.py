"""Pictures in an S3 bucket, Amazon's or another server's, through botocore (`pip install emmdit[s3]`).

Credentials come from where AWS tools look for them: AWS_* variables, files, the pod's or machine's role. Whatever the
server answers but "no such key" is a refusal for now: an operator mends it, and the work goes on by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from service.blobs import STORE_RETRY_AFTER_S, check_key, checked, is_ours, not_stored
from service.errors import ConfigurationError, ServerOverloaded

try:
    from botocore import exceptions
    from botocore.config import Config
    from botocore.session import Session
except ImportError as error:
    raise ConfigurationError("pictures in S3 need botocore: pip install emmdit[s3]") from error

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 4.0
MAX_ATTEMPTS = 2  # so a call is over in about a dozen seconds, and whoever made it decides
MAX_CONNECTIONS = 32
MISSING_CODES = ("NoSuchKey", "404")


class S3Blobs:
    """A `BlobStore` in `bucket`, below `prefix`, for `keep_s`. An upload is seen whole or not at all."""

    sweep_period_s = 600.0  # listing a bucket costs money

    def __init__(
        self, bucket: str, prefix: str, *, keep_s: float, endpoint_url: str | None, region: str | None
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._keep = timedelta(seconds=keep_s)
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
            max_pool_connections=MAX_CONNECTIONS,
            # Of another server's certificates and names nothing is known: a path always works.
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            # Newer checksums are sent in a framing that many compatible servers store as part of the object.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            # Typed Any: the library makes its clients of data files when it runs.
            self._client: Any = Session().create_client(
                "s3", endpoint_url=endpoint_url, region_name=region, config=config
            )
        except (exceptions.BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"the S3 settings cannot be used ({type(error).__name__})") from error

    def put(self, key: str, data: bytes) -> None:
        """One PUT."""
        self._ask("put_object", Key=self._name(key), Body=data)

    def get(self, key: str, sha256: str | None) -> bytes:
        """Read and check."""
        return checked(self._ask("get_object", Key=self._name(key)), sha256)

    def delete(self, keys: Sequence[str]) -> None:
        """One by one: of the request for several at once, servers differ in the checksum that they ask for."""
        for key in keys:
            self._ask("delete_object", Key=self._name(key))

    def sweep(self) -> int:
        """List what is there and remove what is too old, on the server's own clock."""
        num_removed = 0
        marker: dict[str, str] = {}
        while True:
            page = self._ask("list_objects_v2", Prefix=self._prefix, **marker)
            oldest = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"]) - self._keep
            for item in page.get("Contents", ()):
                if is_ours(item["Key"].removeprefix(self._prefix)) and item["LastModified"] < oldest:
                    self._ask("delete_object", Key=item["Key"])
                    num_removed += 1
            if not page.get("IsTruncated"):
                return num_removed
            marker = {"ContinuationToken": page["NextContinuationToken"]}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _ask(self, operation: str, **parameters: object) -> Any:  # noqa: ANN401  (the library's reply)
        """The reply, or the bytes of one that has some."""
        try:
            reply = getattr(self._client, operation)(Bucket=self._bucket, **parameters)
            return reply["Body"].read() if "Body" in reply else reply
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in MISSING_CODES:
                raise not_stored() from error
            logger.warning("S3 refuses %s: %s", operation, code)
            raise _refusal(code) from error
        except exceptions.BotoCoreError as error:
            logger.warning("S3 does not do %s: %s", operation, type(error).__name__)
            raise _refusal(type(error).__name__) from error


def _refusal(reason: str) -> ServerOverloaded:
    message = f"the server that keeps the pictures does not answer, or refuses ({reason})"
    return ServerOverloaded(message, retry_after_s=STORE_RETRY_AFTER_S)
