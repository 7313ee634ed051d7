"""The service's exception tree, with stable codes. Knows no HTTP: service/gateway/responses.py maps it.

EmmditError
├── InvalidValue          a field's value is not allowed (param, value, allowed)
├── UnknownModel          no such model here
├── JobNotFound           no such job, or another owner's
├── JobNotReady           the job has no picture to give (yet, or any more)
├── IdempotencyKeyReused  the key was used for another request
├── QueueFull             the bounded queue has no room (retry_after_s)
├── ServerOverloaded      Redis or the disk refuses work for now (retry_after_s)
├── NoWorker              nobody alive serves the model (retry_after_s)
├── DeadlineExceeded      the job's time ran out
├── JobFailed             the worker gave the job up (its own code)
├── JobWasCancelled       somebody cancelled the job
├── BlobCorrupt           a stored picture fails its checksum
├── TooManyKeys           the tenant has as many active API keys as allowed
└── ConfigurationError    the operator asked for something impossible
"""

from __future__ import annotations

from service.api_keys import without_keys


class EmmditError(Exception):
    """Base of all. `code` is stable and public; `retry_after_s` is set where trying again later makes sense."""

    code = "internal_error"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class InvalidValue(EmmditError):
    """Says the field, the value and what is allowed."""

    code = "invalid_value"

    def __init__(self, param: str, value: object, allowed: str) -> None:
        shown = without_keys(repr(value))
        if len(shown) > 80:
            shown = f"{shown[:60]}... ({len(shown)} characters)"
        super().__init__(f"{param}: {shown} is not allowed; {allowed}")
        self.param = param
        self.value = value
        self.allowed = allowed


class UnknownModel(EmmditError):
    """No such model here."""

    code = "model_not_found"


class JobNotFound(EmmditError):
    """No such job, or another owner's: the two are not told apart."""

    code = "job_not_found"


class JobNotReady(EmmditError):
    """The job has no picture to give, yet or any more."""

    code = "job_not_ready"


class IdempotencyKeyReused(EmmditError):
    """This key was used for another request."""

    code = "idempotency_key_reused"


class QueueFull(EmmditError):
    """The bounded queue has no room."""

    code = "rate_limit_exceeded"


class ServerOverloaded(EmmditError):
    """Redis or the disk refuses work for now."""

    code = "server_is_overloaded"


class NoWorker(EmmditError):
    """Nobody alive serves the model."""

    code = "no_worker"


class DeadlineExceeded(EmmditError):
    """The job's time ran out."""

    code = "deadline_exceeded"


class JobFailed(EmmditError):
    """The worker gave the job up."""

    code = "generation_failed"


class JobWasCancelled(EmmditError):
    """Somebody cancelled the job."""

    code = "cancelled"


class BlobCorrupt(EmmditError):
    """A stored picture fails its checksum."""

    code = "image_corrupt"


class TooManyKeys(EmmditError):
    """The tenant has as many active API keys as allowed."""

    code = "too_many_keys"


class ConfigurationError(EmmditError):
    """The operator asked for something impossible."""

    code = "configuration_error"
