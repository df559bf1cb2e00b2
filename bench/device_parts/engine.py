"""Images a second of the whole engine, through its door, with pictures that are prepared already."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from device_run.door import Asked
from device_run.machine import Machine, Pieces
from device_run.timing import kernels_of
from limit import Limit, Peaks, config_of

PEAKS = Peaks(tflops=790, gb_per_s=4300)
"""An H200's, in bfloat16: what `share_of_limit` is a share of."""
_ROUNDS = 3


def pieces(machine: Machine, *, size: str, task: str, tokens: int, most_images: int, beams: Sequence[int]) -> Pieces:
    """Answers of `tokens` tokens, for at most so many pictures a round."""
    asked, tokens = Asked(machine, size), machine.pick(tokens, 4)

    def memory_gib() -> float:
        return asked.engine.load.memory_used_bytes / 2**30

    def rate(num_beams: int) -> dict[str, Any]:
        """The fastest of three rounds."""
        machine.needs_s(0 if num_beams == beams[0] else 12)
        what = (f"<{task}>", num_beams, tokens)
        warm_s, few = asked.warm_up(*what), len(asked.pictures)
        count = max(few, min(most_images, int(3 * few / warm_s[-1]) // few * few))
        rounds = [asked.one_round(*what, machine.pick(count, few)) for _ in range(machine.pick(_ROUNDS, 1))]
        best = max(rounds, key=lambda one: float(one["images_per_s"]))
        limit = Limit(config_of(size), PEAKS, beams=num_beams).images_per_s([tokens])
        return {
            "task": task,
            "beams": num_beams,
            **best,
            "share_of_limit": best["images_per_s"] / limit,
            "images": count,
            "warm_s": warm_s,
            "slots": asked.engine.load.slots,
            "memory_gib": memory_gib(),
            "all_rounds": [one["images_per_s"] for one in rounds],
        }

    def profile() -> dict[str, Any]:
        machine.needs_cuda()
        machine.needs_s(10)
        return kernels_of(machine, lambda: asked.answer(f"<{task}>", beams[0], tokens, len(asked.pictures)))

    return {
        "start": lambda: {"memory_gib": memory_gib()},
        **{f"beams_{each}": partial(rate, each) for each in beams},
        "profile": profile,
    }
