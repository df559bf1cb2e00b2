"""Which devices a machine's worker processes run on."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from arno_shared.errors import ModelUnusable


@dataclass(frozen=True, slots=True)
class Device:
    kind: str
    """`cpu` or `cuda`."""
    gpu: str | None = None
    """What CUDA_VISIBLE_DEVICES is set to."""

    @property
    def name(self) -> str:
        """The node's name before the `@`."""
        return "cpu" if self.gpu is None else f"gpu{self.gpu}"


def devices(kind: str, gpus: str) -> list[Device]:
    """One for each worker process. Raises ModelUnusable when what was asked for is not there."""
    if kind not in ("auto", "cpu", "cuda"):
        raise ModelUnusable(f"--device is auto, cpu or cuda, not {kind!r}")
    present = [] if kind == "cpu" else visible_gpus()
    if kind == "cpu" or (kind == "auto" and not present):
        return [Device("cpu")]
    if not present:
        raise ModelUnusable("--device cuda, but there is no NVIDIA GPU here (nvidia-smi lists none); use --device cpu")
    wanted = present if gpus == "all" else [gpu.strip() for gpu in gpus.split(",") if gpu.strip()]
    if not wanted:
        raise ModelUnusable("--gpus is all, or numbers such as 0,1")
    if unknown := [gpu for gpu in wanted if gpu not in present]:
        raise ModelUnusable(f"--gpus {','.join(unknown)}: the GPUs here are {', '.join(present)}")
    return [Device("cuda", gpu) for gpu in wanted]


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES lists, or else the indices that nvidia-smi lists.

    Asked without torch, which would touch CUDA in the process that starts the others.
    """
    pinned = os.environ.get("CUDA_VISIBLE_DEVICES")
    if pinned is not None:
        return [gpu.strip() for gpu in pinned.split(",") if gpu.strip() not in ("", "-1")]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    answer = subprocess.run(  # noqa: S603
        [tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return answer.stdout.split() if answer.returncode == 0 else []
