"""Every setting, declared once, with its unit in its name.

Read from the environment: prefix `ARNO_`, nested with `__`, for example `ARNO_LIMITS__MAX_BYTES=50000000`.
S3 credentials, region and endpoint are AWS's own variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_S3`, …).
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from arno_shared.redis_url import parse_redis_url
from arno_shared.uris import check_output_prefix, file_uri


def _checked_redis_url(url: str) -> str:
    parse_redis_url(url)
    return url


def _checked_key_prefix(prefix: str) -> str:
    if not re.fullmatch("[A-Za-z0-9._:{}-]*", prefix):
        raise ValueError("a key prefix has letters, digits, '.', '_', ':', '{', '}' and '-' alone")
    return prefix


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSettings(_Group):
    transport: Literal["atomic", "stock"] = "atomic"
    """`stock` is kombu's own Redis transport, which loses messages: for comparing, not for use."""
    lease_s: int = Field(default=60, ge=2)
    """How long a message that a worker took stays its own once the worker no longer renews it: a dead worker's chunks
    run elsewhere after this time and a little more. Living workers renew their leases; chunks may take longer."""
    lease_max_s: float = Field(default=900, gt=0)
    """How long a lease is renewed for a chunk of which nothing is heard: no image done, no waiting for the house."""
    task_events: bool = False
    """Send Celery's task events and heartbeats, which Flower shows: 0.3 to 0.5 ms of CPU a message."""
    socket_timeout_s: float = Field(default=15, gt=0)
    connect_timeout_s: float = Field(default=5, gt=0)


class LimitSettings(_Group):
    """What an image URI from a stranger may cost and reach."""

    schemes: tuple[str, ...] = ("s3", "https", "http")
    file_roots: tuple[Path, ...] = ()
    """Folders below which `file://` images may lie, once `file` is among the schemes."""
    private_addresses: bool = False
    """Whether http(s) images may come from private, loopback, link-local and other non-public addresses."""
    max_bytes: int = Field(default=64 * 2**20, gt=0)
    max_pixels: int = Field(default=100_000_000, gt=0)
    max_redirects: int = Field(default=5, ge=0)
    connect_timeout_s: float = Field(default=5, gt=0)
    timeout_s: float = Field(default=30, gt=0)
    """For one try at one image, from connecting to the last byte."""


class RetrySettings(_Group):
    """What happens to an image whose failure may pass."""

    tries: int = Field(default=3, ge=1)
    """Tries inside the worker, before the image is put off into a new chunk."""
    backoff_s: float = Field(default=0.5, gt=0)
    """Pause after the first try; doubles with each, with jitter."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Attempts (chunks) before the image goes to the dead letters."""
    put_off_s: float = Field(default=15, gt=0)
    """Pause before the second attempt; four times as long with each."""
    max_deliveries: int = Field(default=5, ge=2)
    """Workers that an image may cost before it is given up: times that its chunk was begun without an end. From the
    middle one on, the chunk's images run one at a time, alone in their worker; a chunk that holds several such images
    costs half as many more for each."""


class ProducerSettings(_Group):
    chunk_images: int = Field(default=32, ge=1, le=1024)
    block_chunks: int = Field(default=1000, ge=1)
    """Chunks in one manifest object, written before any of them is enqueued."""
    high_water_messages: int = Field(default=10_000, ge=1)
    """A lane's queue length at which submission pauses until workers catch up."""
    high_water_bytes: int = Field(default=256 * 2**20, ge=1)
    """The same of the memory that a lane's messages take in Redis, where its server says how much that is."""
    patience_s: float = Field(default=120, ge=0)
    """How long a submission that has begun waits for Redis or storage to come back, each time they are away."""


class WorkerSettings(_Group):
    model: str = "arno-tiny"
    """`arno-tiny` (bundled), a local folder, an `s3://bucket/folder`, or a hub id such as
    `microsoft/Florence-2-base-ft`: Florence-2 in transformers' own layout or in Microsoft's."""
    revision: str = "main"
    """Of a hub id: a branch, a tag or a commit. What it stands for is looked up at each start; a commit's hash makes
    results reproducible."""
    adapter: str = ""
    """A LoRA adapter for the model: a folder, an `s3://` folder or a hub id."""
    adapter_revision: str = "main"
    """Of the adapter's hub id, as `revision`."""
    processor: str = ""
    """Where tokenizer and image processor come from, if the model's folder holds weights alone: a folder, an `s3://`
    folder or a hub id."""
    processor_revision: str = "main"
    """Of the processor's hub id, as `revision`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is bfloat16 on CUDA, and on a CPU that computes in it when the checkpoint is stored in half precision;
    else float32."""
    pixels: Literal["exact", "fast"] = "exact"
    """`exact`: what the checkpoint's image processor makes of a picture, bit for bit. `fast`: JPEGs are scaled down
    while they are decoded, though never below the model's input, and resized by torch."""
    kernels: Literal["plain", "compiled", "triton", "untried"] = "triton"
    """On CUDA, what computes everything between the matrix products: torch's own functions, those that torch's compiler
    makes of them (a minute at the start), Arno's kernels in Triton, or these with some that no device has measured yet.
    All but the plain ones need a C compiler, and run only where their results agree with the plain ones'."""
    graphs: bool = True
    """On CUDA: all that the device does is recorded at the start as CUDA graphs, and launched as these."""
    overlap: bool = False
    """On CUDA: the vision tower looks at pictures while answers grow, on a stream of its own."""
    cudnn_attention: bool = False
    """On CUDA: torch may take cuDNN's attention, which is fast, and prepares itself for each new shape for 50 ms and
    more."""
    torch_threads: int = Field(default=0, ge=0)
    """Threads of torch on CPU; 0 measures at the start how many pay."""
    engine: Literal["florence", "null"] = "florence"
    """`null` answers nothing, at once: for measuring everything but the model."""
    chunks_in_flight: int | None = Field(default=None, ge=1)
    """Chunks that a worker holds at a time; unset, as many as keep its device busy."""
    fetch_threads: int = Field(default=16, ge=1)
    max_batch_images: int | None = Field(default=None, ge=1)
    """Pictures in one run of the vision tower; unset, what the device's free memory allows."""
    slots: int | None = Field(default=None, ge=1)
    """Answers that grow at the same time, for each number of beams that is asked for; unset, what the device's free
    memory allows."""
    max_ready_images: int = Field(default=128, ge=1)
    """Decoded pictures that may wait for the engine; fetching pauses above it."""
    drain_s: float = Field(default=60, gt=0)
    """After SIGTERM: how long chunks in flight may take to finish before they go back to the queue."""
    spot_notice: Literal["aws", "gcp"] | None = None
    """The cloud whose notice that it takes this machine away is to be obeyed as SIGTERM is."""
    stuck_s: float = Field(default=300, gt=0)
    """How long nothing may move in a worker that has work before its watchdog ends it."""
    health_host: str = "127.0.0.1"
    health_port: int = Field(default=0, ge=0, le=65535)
    """Where `/healthz` and `/readyz` answer; 0 takes any free port, which the log and `arno workers` name. With
    several GPUs, each process takes the next port."""
    model_cache: Path = Path("~/.cache/arno/models")
    """Where what comes from `s3://` is kept, for all workers of a machine. What comes from the hub lies where
    `HF_HOME` says; `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are the hub library's own, too."""


class HttpSettings(_Group):
    """The HTTP door, `arno serve`."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes any free port, which the log names."""
    tokens: tuple[SecretStr, ...] = ()
    """Bearer tokens, each of which opens every door. Without any, the door listens on loopback alone."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the door from a browser; none by default."""
    max_body_bytes: int = Field(default=16 * 2**20, gt=0)
    """Of any request but an upload."""
    max_upload_bytes: int = Field(default=32 * 2**20, gt=0)
    """Of a picture that is uploaded to `/v1/annotate`."""
    annotate_timeout_s: float = Field(default=30, gt=0)
    """How long `/v1/annotate` waits for an answer at most; a request may ask for less."""
    rules: Path | None = None
    """TOML file of the rules by which `/v1/events/s3` turns events into work; unset, that door is shut."""
    output_prefixes: tuple[str, ...] = ()
    """Below which results of jobs may go. Unset: any `s3://` prefix, and what lies below `output_prefix`."""


class TriggerSettings(_Group):
    """`arno trigger`."""

    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Where `/metrics` answers; 0 takes any free port, which the log names."""


class TopicSettings(_Group):
    max_events: int = Field(default=100_000, ge=1)
    inline_max_bytes: int = Field(default=32 * 1024, ge=0)
    """Results larger than this do not travel in the event, even when asked for."""


class DeadLetterSettings(_Group):
    max_letters: int = Field(default=100_000, ge=1)


class Settings(BaseSettings):
    """All of Arno's settings. `Settings()` reads the environment; tests pass values."""

    model_config = SettingsConfigDict(env_prefix="ARNO_", env_nested_delimiter="__", frozen=True, extra="forbid")

    redis_url: Annotated[str, AfterValidator(_checked_redis_url)] = "redis://127.0.0.1:6379/0"
    """`redis://`, or `rediss://` for TLS; user, password and options (`redis_options.py`) go in it. With Sentinel:
    `sentinel://:password@host:26379,host:26379/name-of-the-master/0`."""
    key_prefix: Annotated[str, AfterValidator(_checked_key_prefix)] = ""
    """Stands before every key in Redis, for several Arnos, or others, in one database. Producers and workers must
    have the same."""
    output_prefix: Annotated[str, AfterValidator(check_output_prefix)] = Field(
        default_factory=lambda: file_uri(Path("arno-results"))
    )
    """Where results go when neither the job nor the message says."""
    ledger_retention_s: int = Field(default=7 * 86400, ge=60)
    """How long a job that has ended stays in the ledger; for ten times as long, that it was is known."""
    ledger_abandon_s: int = Field(default=90 * 86400, ge=60)
    """After how long a job that has not ended, and of which nothing was heard, ends as `incomplete`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    broker: BrokerSettings = BrokerSettings()
    limits: LimitSettings = LimitSettings()
    retries: RetrySettings = RetrySettings()
    producer: ProducerSettings = ProducerSettings()
    worker: WorkerSettings = WorkerSettings()
    http: HttpSettings = HttpSettings()
    trigger: TriggerSettings = TriggerSettings()
    topic: TopicSettings = TopicSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
