"""The decoder's step of base with 3 beams: one token for every slot, as the engine runs it and as it is called."""

from functools import cache, partial
from typing import Any

from device_run.insides import Steps
from device_run.machine import Machine, Pieces
from device_run.models import PROMPT_TOKENS, load, size_of
from device_run.timing import host_ms, kernels_of, ms_of


def pieces(machine: Machine) -> Pieces:
    counts, lengths = machine.pick((512, 256, 64), (3,)), machine.pick((32, 128, 256), (32,))
    image_tokens = size_of(machine, "base").image_tokens
    steps = cache(lambda: Steps(machine, load(machine, "base"), max(counts), image_tokens, PROMPT_TOKENS))

    def of(slots: int) -> list[dict[str, Any]]:
        """`first_ms` and `second_ms`: while a shape is new."""
        table = []
        for tokens in lengths:
            step = steps().as_the_engine(slots, tokens)
            row: dict[str, Any] = {"slots": slots, "tokens": tokens}
            row |= {"first_ms": host_ms(machine, step), "second_ms": host_ms(machine, step)}
            row["step_ms"] = ms_of(machine, step, rounds=12, warm=2)
            row["called_ms"] = ms_of(machine, steps().called(slots, tokens), rounds=3, warm=1)
            table.append(row)
        return table

    def profile() -> dict[str, Any]:
        step = steps().as_the_engine(max(counts), lengths[0])
        step()
        return kernels_of(machine, step)

    return {**{f"slots_{slots}": partial(of, slots) for slots in counts}, "profile": profile}
