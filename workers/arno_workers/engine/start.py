"""Starts the engine that the settings ask for."""

from collections.abc import Callable
from functools import partial
from time import perf_counter

from arno_shared.checkpoint.files import Wanted
from arno_shared.errors import MissingExtra, ModelUnusable
from arno_shared.logs import get_logger
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_workers.engine import Engine
from arno_workers.engine.checkpoint.locate import locate
from arno_workers.engine.clock import DeviceStageClock, Observe, StageClock, unobserved
from arno_workers.engine.loop import EngineLoop
from arno_workers.engine.null import NullReplica
from arno_workers.engine.replica import Replica

log = get_logger(__name__)

_QUICK_S = 2.0


def start_engine(
    settings: WorkerSettings,
    device: str,
    store: ObjectStore,
    on_broken: Callable[[], None],
    observe: Observe = unobserved,
) -> Engine:
    """Loads and warms a replica on `device` (`cpu`, `cuda`, or `auto`) before it returns.

    `observe` is called, on the device's thread, for each stage of its work from then on; `on_broken` when the replica
    fails for good. Raises ModelUnusable, MissingExtra.
    """

    def make_replica() -> Replica:
        return NullReplica() if settings.engine == "null" else _florence(settings, device, store, observe)

    return EngineLoop(make_replica, settings.max_ready_images, on_broken)


def _florence(settings: WorkerSettings, device: str, store: ObjectStore, observe: Observe) -> Replica:
    """A replica that has answered once."""
    try:
        import torch
        import transformers

        from arno_workers.engine.florence import FlorenceReplica
        from arno_workers.engine.memory import keep_freed_memory
        from arno_workers.engine.precision import keep_float32
        from arno_workers.engine.threads import choose_threads
    except ImportError as error:
        if error.name in ("torch", "transformers", "numpy"):
            raise MissingExtra("A worker", "worker") from None
        raise
    # Its own handler writes plain lines and progress bars between the log's JSON.
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelUnusable("--device cuda, but torch sees no CUDA device; check the driver, or use --device cpu")
    keep_float32()
    # Off, unless it is asked for: it prepares itself for every new shape, in the middle of the work.
    torch.backends.cuda.enable_cudnn_sdp(settings.cudnn_attention)
    located = locate(settings.model, settings.revision, Wanted.MODEL, settings.model_cache, store)
    replica = FlorenceReplica(located, settings, device)
    began_s = perf_counter()
    replica.warm_up()
    # A batch says more of how threads pay, but with a large model on a CPU each picture takes seconds.
    pictures = 4 if perf_counter() - began_s < _QUICK_S else 1
    if device == "cuda" and settings.graphs:
        replica.capture()
    if device == "cpu" and not settings.torch_threads:
        choose_threads(lambda: replica.rehearse(pictures))
    # Not before: what it did until now was nobody's work.
    replica.clock = _clock(device, observe)
    log.info(
        "replica ready",
        model=replica.model.id,
        revision=replica.model.revision,
        device=device,
        execution=replica.execution,
    )
    return replica


def _clock(device: str, observe: Observe) -> StageClock:
    if device != "cuda":
        return StageClock(observe)
    import torch

    return DeviceStageClock(observe, partial(torch.cuda.Event, enable_timing=True))
