"""Every knob of the service: one frozen class, read once from flags and `EMMDIT_*` variables.

Surprising: an unknown `EMMDIT_*` variable is an error, so that a misspelt limit is noticed at start-up and not in
production. service/variables.py says how variables are named and read; service/settings_page.py writes the page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import ConfigurationError
from service.queue_types import QueueLimits
from service.quotas import Quotas
from service.redis_address import ALLOWED_SCHEMES, SCHEMES, completed_url
from service.variables import ENV_PREFIX, Variables, variable, written

REDIS_FILES = ("redis_ca_file", "redis_cert_file", "redis_key_file")
C2PA_FILES = ("c2pa_certificate_file", "c2pa_key_file")
S3_PLACE = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>[\w./-]{0,200}))?", re.ASCII)
MetadataMode = Literal["minimal", "full", "none"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Finite


class Settings(BaseSettings):
    """Frozen. Lengths of time are seconds, sizes are bytes, as the names say."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("demo", "demo-dist", "demo-grpo"),
        min_length=1,
        description="What is served: names of known models or folders of bundles, with commas between them. The first "
        "one draws for requests that name none.",
    )
    models_dir: Path = Field(Path("~/.cache/emmdit/models"), description="Where fetched bundles lie.")
    data_dir: Path = Field(
        Path("~/.local/share/emmdit"), description="Where the embedded server's files and the finished pictures lie."
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address the gateway listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the gateway listens on; 0 takes a free one.")
    require_keys: Literal["auto", "always", "never"] = Field(
        "auto", description="Whether requests need an API key (`emmdit keys`). auto: beyond loopback."
    )
    allow_remote_without_keys: bool = Field(
        False, description="Let everybody who can reach the port draw pictures, without a key."
    )
    tenant_max_jobs: int = Field(0, ge=0, description="Unfinished jobs that one tenant may have; 0: no limit.")
    tenant_max_queued_jobs: int = Field(0, ge=0, description="Waiting jobs that one tenant may have; 0: no limit.")
    tenant_rate_per_min: Finite = Field(
        0.0, ge=0, description="Megapixel-steps a minute that one tenant may ask for; 0: no limit."
    )
    tenant_burst: Finite = Field(
        0.0, ge=0, description="Megapixel-steps of that which may come at once; 0: as many as a minute gives."
    )
    tenant_daily_megapixels: Finite = Field(
        0.0, ge=0, description="Megapixels of pictures a day (UTC) that one tenant may get; 0: no limit."
    )
    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster:// address: see "
        "docs/redis.md. Unset: `emmdit serve` starts a server of its own.",
    )
    redis_password: SecretStr | None = Field(None, min_length=1, description="Password of Redis, if not in redis_url.")
    redis_ca_file: Path | None = Field(None, description="Certificates that sign Redis's own, if no public one does.")
    redis_cert_file: Path | None = Field(None, description="Certificate that we show to Redis, where it asks for one.")
    redis_key_file: Path | None = Field(None, description="Key of redis_cert_file.")

    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$",
        description="http:// or https:// address at which clients reach the service, for links to pictures. Unset: the "
        "one that each request was sent to.",
    )
    url_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Signs links to pictures, 32 characters or more, the same for all gateways. Unset: a random one, "
        "kept in Redis.",
    )
    url_ttl_s: Seconds = Field(
        0.0, ge=0, description="How long a signed link to a picture works; 0: as long as finished pictures are kept."
    )

    blob_url: SecretStr | None = Field(
        None,
        description="Where finished pictures are kept: a folder, `redis` (the queue's server), an address as in "
        "`EMMDIT_REDIS_URL`, or s3://bucket/prefix. Unset: a folder in `EMMDIT_DATA_DIR`. See storage.md.",
    )
    blob_max_bytes: int = Field(
        128 * 1024**2, ge=1024**2, description="Bytes of pictures kept in Redis; beyond it work is refused."
    )
    min_free_bytes: int = Field(
        64 * 1024**2, ge=0, description="A folder takes no pictures while its disk has less room left than this."
    )
    s3_endpoint_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="http:// or https:// address of an S3-compatible server. Unset: Amazon's, or what the usual AWS_* "
        "variables say; those carry the credentials too.",
    )
    s3_region: str | None = Field(
        None, min_length=1, description="Region of the bucket. Unset: as AWS_* variables say."
    )
    checkpoint_every: int = Field(
        0,
        ge=0,
        le=1000,
        description="Keep a running picture's progress after every so many steps, for a rerun after a crash; 0: never.",
    )

    embedded_max_memory_bytes: int = Field(
        256 * 1024**2,
        ge=16 * 1024**2,
        description="Memory of the server that `emmdit serve` starts; new jobs are refused above 80% of it.",
    )

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the model. auto: bfloat16 on a GPU, float32 on a CPU."
    )
    num_threads: int = Field(0, ge=0, description="Threads a CPU worker computes with; 0 leaves it to torch.")
    max_batch_rows: int = Field(
        16, ge=2, le=1024, description="Rows of one forward of the network; a picture with guidance takes two."
    )
    max_active_images: int = Field(
        48, ge=1, le=1024, description="Pictures under way at once in one worker; each forward takes some of them."
    )

    compiled_dir: Path = Field(Path("~/.cache/emmdit/compiled"), description="Where compiled networks are kept.")
    exact: bool = Field(
        False,
        description="Draw the same picture to the bit in any company: every forward has max_batch_rows rows. Slower.",
    )
    compile_network: bool = Field(
        True, description="Compile the network in the background and draw with that once it is there."
    )

    queue_capacity: int = Field(256, ge=1, description="Jobs that may wait; beyond it requests get 429.")
    max_images: int = Field(10, ge=1, le=100, description="Pictures per request.")
    max_prompt_chars: int = Field(2000, ge=1, description="Characters per prompt.")
    max_body_bytes: int = Field(1024**2, ge=1024, description="Bytes per request body.")
    body_timeout_s: Seconds = Field(10.0, gt=0, description="How long a client may take to send a request's body.")
    header_timeout_s: Seconds = Field(
        10.0, gt=0, description="How long a client may take to send a request's head, or to send nothing at first."
    )
    write_timeout_s: Seconds = Field(
        30.0, gt=0, description="A client that takes less than 16 KiB of its answer in so long is cut off."
    )
    max_connections: int = Field(
        768,
        ge=1,
        description="Open connections of a gateway. Beyond it idle ones are closed, or else requests get 503.",
    )
    max_connections_per_address: int = Field(
        0, ge=0, description="Open connections from one address; 0: any number, as behind a proxy all come from one."
    )

    default_timeout_s: Seconds = Field(300.0, gt=0, description="Deadline of a request that names none.")
    max_timeout_s: Seconds = Field(3600.0, gt=0, description="Longest deadline that a request may name.")
    result_ttl_s: Seconds = Field(3600.0, gt=0, description="How long finished jobs and their pictures are kept.")
    idempotency_ttl_s: Seconds = Field(
        86400.0, gt=0, description="How long an Idempotency-Key is remembered after a job was accepted under it."
    )
    dead_letter_ttl_s: Seconds = Field(
        604800.0,
        gt=0,
        description="How long a job that failed for good is kept for `emmdit jobs dead`, its prompt too.",
    )
    max_dead_letters: int = Field(
        1000, ge=0, le=100_000, description="Jobs of each model that are kept so; the oldest go first. 0 keeps none."
    )
    no_worker_grace_s: Seconds = Field(
        60.0, ge=0, description="How long requests are still accepted after the last worker was seen alive."
    )
    drain_delay_s: Seconds = Field(
        0.0, ge=0, description="On SIGTERM: how long the gateway says that it is not ready before it stops accepting."
    )
    drain_timeout_s: Seconds = Field(30.0, ge=0, description="On SIGTERM: how long work under way may take to finish.")

    lease_s: Seconds = Field(15.0, gt=0, description="A worker silent for so long loses its jobs.")
    heartbeat_s: Seconds = Field(1.0, gt=0, description="How often a worker renews its leases and reports progress.")
    stall_limit_s: Seconds = Field(
        300.0, gt=0, description="A worker whose steps stand still for so long no longer renews its leases."
    )
    max_attempts: int = Field(3, ge=1, description="Times a job is tried before it fails for good.")
    retry_delay_s: Seconds = Field(1.0, ge=0, description="Pause before a job is tried again.")

    metadata: MetadataMode = Field(
        "minimal",
        description="What pictures say about themselves. minimal: software, model, seed, steps, guidance, size, and "
        "that a model made them; full: prompts too; none.",
    )
    blocked_words_file: Path | None = Field(
        None,
        description="Words and phrases, one a line, `#` begins a comment: prompts that hold one are refused. Unset: no "
        "filter.",
    )
    c2pa_certificate_file: Path | None = Field(
        None,
        description="PEM file with the signer's certificate and those that lead to its root: every picture is signed "
        "as made by a machine (C2PA). Needs c2pa_key_file and the extra emmdit[c2pa]. Unset: pictures are not signed.",
    )
    c2pa_key_file: Path | None = Field(
        None, description="PEM file with the private key of that certificate, for the gateway's eyes only."
    )
    preview_interval_s: Seconds = Field(
        0.1, ge=0, description="How often a picture under way that somebody watches is shown, at most."
    )
    png_compress_level: int = Field(6, ge=0, le=9, description="zlib level of the PNGs: 0 is fast, 9 is small.")

    worker_metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port for the metrics and probes (/livez, /readyz, /startupz) of a worker that runs apart from a "
        "gateway; 0: none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged; SIGUSR1 turns on debug, SIGUSR2 comes back to this."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines for people, or one JSON object a line with the ids of request, job and trace."
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="http:// or https:// address of an OpenTelemetry collector (OTLP over HTTP, often on port 4318), "
        "to which traces are sent. Needs the extra emmdit[tracing]. Unset: none are.",
    )
    trace_sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of requests that are traced, of those whose caller has not decided it (traceparent).",
    )

    @field_validator("models", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        return tuple(part.strip() for part in text.split(",")) if isinstance(text, str) else value

    @field_validator("models")
    @classmethod
    def _refuse_repetition(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if "" in models:
            raise ValueError("a name is missing: give names or folders with one comma between them")
        if repeated := sorted({model for model in models if models.count(model) > 1}):
            raise ValueError(f"{', '.join(repeated)} is named twice")
        return models

    @field_validator("models_dir", "data_dir", "compiled_dir", "blocked_words_file", *REDIS_FILES, *C2PA_FILES)
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser()

    @field_validator("redis_url")
    @classmethod
    def _check_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and url.get_secret_value().partition("://")[0] not in SCHEMES:
            raise ValueError(f"the address must begin with {ALLOWED_SCHEMES}")
        return url

    @field_validator("blob_url")
    @classmethod
    def _check_blob_url(cls, url: SecretStr | None) -> SecretStr | None:
        value = "" if url is None else url.get_secret_value()
        scheme, has_scheme, _ = value.partition("://")
        if url is not None and (not value or (has_scheme and scheme not in (*SCHEMES, "s3"))):
            raise ValueError(f"give a folder, 'redis', s3://, or an address that begins with {ALLOWED_SCHEMES}")
        if scheme == "s3" and has_scheme and not S3_PLACE.fullmatch(value):
            raise ValueError("a bucket is named s3://bucket or s3://bucket/prefix, in the letters that S3 allows")
        return url

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        self.tenant_quotas()
        if self.default_timeout_s > self.max_timeout_s:
            raise ValueError(f"default_timeout_s ({self.default_timeout_s:g}) exceeds max_timeout_s")
        if self.url_ttl_s > self.result_ttl_s:
            raise ValueError(
                f"url_ttl_s ({self.url_ttl_s:g}) exceeds result_ttl_s ({self.result_ttl_s:g}): "
                "a link cannot outlive its picture"
            )
        if (self.c2pa_certificate_file is None) != (self.c2pa_key_file is None):
            raise ValueError("c2pa_certificate_file and c2pa_key_file are given together or not at all")
        beside_url = ("redis_password", *REDIS_FILES)
        if self.redis_url is None and (lone := [name for name in beside_url if getattr(self, name) is not None]):
            raise ValueError(f"{lone[0]} is for the Redis of redis_url, which is not set")
        if self.heartbeat_s * 3 > self.lease_s:
            raise ValueError(
                f"heartbeat_s ({self.heartbeat_s:g}) must fit three times into lease_s ({self.lease_s:g}), "
                "or one lost heartbeat would cost a lease"
            )
        return self

    def tenant_quotas(self) -> Quotas:
        """What a tenant may ask for that has no quotas of its own."""
        return Quotas(
            max_jobs=self.tenant_max_jobs,
            max_queued_jobs=self.tenant_max_queued_jobs,
            rate_per_min=self.tenant_rate_per_min,
            burst=self.tenant_burst,
            daily_megapixels=self.tenant_daily_megapixels,
        )

    def queue_url(self) -> str | None:
        """`redis_url` with the password and the files that were given beside it.

        Raises ConfigurationError where they do not go together, or a file is not there.
        """
        if self.redis_url is None:
            return None
        for name in REDIS_FILES:
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                raise ConfigurationError(f"{name}: there is no file {str(path)!r}")
        return completed_url(
            self.redis_url.get_secret_value(),
            password=self.redis_password.get_secret_value() if self.redis_password else None,
            ca_file=self.redis_ca_file,
            cert_file=self.redis_cert_file,
            key_file=self.redis_key_file,
        )

    def queue_limits(self) -> QueueLimits:
        """What the queue promises under these settings."""
        return QueueLimits(
            capacity=self.queue_capacity,
            lease_s=self.lease_s,
            max_attempts=self.max_attempts,
            retry_delay_s=self.retry_delay_s,
            result_ttl_s=self.result_ttl_s,
            idempotency_ttl_s=self.idempotency_ttl_s,
            dead_letter_ttl_s=self.dead_letter_ttl_s,
            max_dead_letters=self.max_dead_letters,
        )


def settings_environment(settings: Settings) -> dict[str, str]:
    """The `EMMDIT_*` variables that give a child process these settings, secrets included."""
    variables: dict[str, str] = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            variables[variable(name)] = written(value)
    return variables


def load_settings(**flags: object) -> Settings:
    """Settings from flags, then `EMMDIT_*` variables, then defaults; a flag that is None counts as not given.

    Raises ConfigurationError naming the flag or variable, its value and what is allowed.
    """
    variables = Variables(Settings.model_fields, os.environ)
    variables.refuse_unknown()
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    secrets: dict[str, Any] = {name: text for name, text in variables.secrets_in_files().items() if name not in given}
    try:
        return Settings(**(given | secrets))
    except ValidationError as error:
        raise ConfigurationError("; ".join(variables.sentence(item, given) for item in error.errors())) from None
