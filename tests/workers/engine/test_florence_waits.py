"""Nothing that the device is given to do makes the host wait for it.

On the meta device, where tensors have shapes and no values: whatever asks for a value, or brings one from the host in a
way that waits for the device, is heard.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from arno_shared.names import Lane
from arno_shared.settings import WorkerSettings
from arno_workers.engine.beams import Beams
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import Located
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.functions import Extent, Reach
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.scheduler import Admission, Picture, Request
from tests.workers.engine.cuda_stand_in import WAITS, stand_in_cuda
from tests.workers.engine.odd_models import TINY


class Heard(TorchDispatchMode):
    """What waits, by name: values that are asked for, copies that wait, and numbers of the host among indices."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(each.is_meta for each in tensors) and _waits(name, args, kwargs, tensors):
            self.waits[name] += 1
        return func(*args, **kwargs)


def _waits(name: str, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> bool:
    numbers_among_indices = name == "index_put_" and args[2].dim() == 0
    of_the_host = [each for each in tensors if not each.is_meta]
    goes_to_host = "device" in kwargs and torch.device(kwargs["device"]).type == "cpu"
    if name in ("copy_", "_to_copy"):
        between = of_the_host or goes_to_host
        return bool(between) and not (kwargs.get("non_blocking") or args[2:3] == (True,))
    # A single number may be a kernel's argument; more than that is copied first.
    brings_along = any(each.dim() for each in of_the_host)
    chooses = any(each.dtype == torch.bool for each in tree_leaves(args[1:2])) if name == "index" else False
    return name in WAITS or numbers_among_indices or brings_along or chooses


@pytest.fixture
def replica() -> Iterator[FlorenceReplica]:
    settings = WorkerSettings(slots=6, max_batch_images=4, dtype="bfloat16")
    with stand_in_cuda():
        yield FlorenceReplica(load_checkpoint(Sources(Located("arno-tiny", TINY, None))), settings, "meta")


def pictures(replica: FlorenceReplica, count: int) -> list[Picture]:
    made = []
    for _ in range(count):
        picture = Picture(torch.zeros(128, 128, 3, dtype=torch.uint8), Lane.BULK)
        picture.requests = [Request(picture, replica.prompt_ids("what is it?"), 3, 9)]
        made.append(picture)
    return made


@torch.inference_mode()
def test_looking_admitting_stepping_and_recording_wait_for_nothing(replica: FlorenceReplica) -> None:
    bank, waiting = replica._banks[3], pictures(replica, 3)
    for slot, picture in enumerate(waiting):
        picture.requests[0].slot = slot
    with Heard() as heard:
        replica._see(waiting)
        replica._admit(Admission(3, [picture.requests[0] for picture in waiting]))
        bank._stepper.step(Extent(replica._image_tokens + 9, (Reach(3, 5),)))
        bank._decoder.beams.record(bank._tensor([0, 2]), 5)
        bank._decoder.caches.clear(bank._tensor([1]))
        bank.reset()
    assert heard.waits == {}


@pytest.mark.parametrize("forced_bos", [None, 0])
def test_a_search_begins_without_waiting(forced_bos: int | None) -> None:
    rules = GenerationRules(3, True, 1.0, 3, 2, (2,), forced_bos, 2, None)
    beams = Beams(rules, slots=8, max_tokens=20, device="meta")
    slots = torch.zeros(4, dtype=torch.long, device="meta")
    with Heard() as heard:
        beams.begin(slots, slots)
        beams.record(slots, 9)
        beams.stop_all()
    assert heard.waits == {}


@pytest.mark.parametrize(
    "wait", [lambda x: x[0].item(), lambda x: x[x > 0], lambda x: x.cpu()], ids=["item", "mask", "cpu"]
)
def test_what_waits_is_heard(wait: Any) -> None:
    with Heard() as heard, pytest.raises((RuntimeError, NotImplementedError)):
        wait(torch.zeros(3, device="meta"))
    assert heard.waits.total() == 1


def test_a_number_of_the_host_among_indices_is_heard() -> None:
    x = torch.zeros(3, 3, device="meta")
    with Heard() as heard:
        x[torch.zeros(2, dtype=torch.long, device="meta")] = 5.0
    assert heard.waits.total() == 1
