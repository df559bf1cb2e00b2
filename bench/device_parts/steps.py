"""The decoder's step of base with 3 beams: one token for every slot, as the engine runs it and as it is called."""

from functools import cache, partial
from itertools import product
from typing import Any

from device_run.insides import Steps
from device_run.machine import Machine, Pieces
from device_run.models import PROMPT_TOKENS, load, size_of
from device_run.timing import kernels_of, ms_of


def pieces(machine: Machine) -> Pieces:
    counts, lengths = machine.pick((512, 256, 64), (3,)), machine.pick((32, 128, 256), (32,))
    image_tokens = size_of(machine, "base").image_tokens
    ways = machine.pick(("triton", "plain"), ("plain",))

    @cache
    def steps(kernels: str) -> Steps:
        return Steps(machine, load(machine, "base"), max(counts), image_tokens, PROMPT_TOKENS, kernels)

    def of(kernels: str) -> list[dict[str, Any]]:
        table = []
        for slots, tokens in product(counts, lengths):
            row: dict[str, Any] = {"slots": slots, "tokens": tokens}
            row["step_ms"] = ms_of(machine, steps(kernels).as_the_engine(slots, tokens), rounds=12, warm=2)
            row["called_ms"] = ms_of(machine, steps(kernels).called(slots, tokens), rounds=3, warm=1)
            table.append(row)
        return table

    def profile(kernels: str) -> dict[str, Any]:
        step = steps(kernels).as_the_engine(max(counts), lengths[0])
        step()
        return kernels_of(machine, step)

    pieces: Pieces = {kernels: partial(of, kernels) for kernels in ways}
    return pieces | {f"profile, {kernels}": partial(profile, kernels) for kernels in ways}
