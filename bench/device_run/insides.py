"""Every name behind the engine's door that a part needs: who moves it there changes it here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.settings import WorkerSettings
from arno_workers.engine import slots as slots_module
from arno_workers.engine.caches import Room
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import Located
from arno_workers.engine.choice import choose_functions
from arno_workers.engine.decoder import Decoder, DecoderWeights
from arno_workers.engine.encoder import TextEncoder
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.functions import Extent, Functions, Reach
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.graphs import Graphs, Place
from arno_workers.engine.precision import keep_float32
from arno_workers.engine.scheduler import Picture, Request
from arno_workers.engine.staging import whole_numbers
from arno_workers.engine.stepper import DirectStepper, GraphStepper
from arno_workers.engine.vision import VisionTower
from device_run.machine import Machine

_BATCH = 8


def known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that WorkerSettings has."""
    return {name: value for name, value in settings.items() if name in WorkerSettings.model_fields}


class Replica:
    """One copy of a model without the thread that usually owns it, stage by stage and as a whole."""

    def __init__(self, folder: Path, device: str, dtype: Any, **settings: Any) -> None:
        keep_float32()
        # As the engine starts.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.device = device
        worker = WorkerSettings(dtype=dtype, slots=40, max_batch_images=_BATCH, **settings)
        self._replica = FlorenceReplica(load_checkpoint(Sources(Located(str(folder), folder, None))), worker, device)

    def capture(self) -> str:
        """How it computes from then on."""
        if self.device == "cuda":
            self._replica.capture()
        return self._replica.execution

    @property
    def dtype(self) -> str:
        return self._replica.model.dtype

    def slots(self, beams: int) -> int:
        return self._replica.limits.slots(beams)

    def warm_up(self) -> None:
        self._replica.warm_up()

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Normalised, (n, 3, height, width)."""
        return self._replica._recipe.normalise(self.arrived(images))

    def arrived(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """uint8, (n, height, width, 3)."""
        batches = []
        for first in range(0, len(images), _BATCH):
            prepared = [self._replica.prepare(image) for image in images[first : first + _BATCH]]
            with self._replica._uploads.upload(prepared) as pixels:
                batches.append(pixels.clone())
        return torch.cat(batches)

    @torch.inference_mode()
    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """The vision tower and the projector."""
        return self._replica._vision(pixels)

    @torch.inference_mode()
    def encode(self, features: torch.Tensor, sentence: str) -> torch.Tensor:
        """The text encoder: keys and values for the decoder, in one tensor."""
        ids = [self._replica.prompt_ids(sentence)] * len(features)
        encoder: TextEncoder = self._replica._banks._encoder
        return torch.stack(encoder(features, whole_numbers(ids, self.device)))

    def answers(
        self, images: Sequence[Image.Image], tasks: Sequence[str], beams: int, words: Sequence[int] = ()
    ) -> list[tuple[int, ...]]:
        """Token ids, picture by picture; later ones are also asked prompts of so many words."""
        replica, options = self._replica, GenerationOptions(num_beams=beams, max_new_tokens=64)
        pictures = [Picture(replica.prepare(image), Lane.BULK) for image in images]
        for picture in pictures:
            asks = [replica.ask(Prompt(task=task), 256, 256, options) for task in tasks]
            picture.requests = [Request(picture, replica.prompt_ids(ask.sentence), beams, 64) for ask in asks]
        for picture, count in zip(pictures[len(pictures) // 2 :], words, strict=False):
            picture.requests.append(Request(picture, replica.prompt_ids("x y " * (count // 2)), beams, 12))
        replica.answer_all(pictures)
        return [request.answer.ids if request.answer else () for picture in pictures for request in picture.requests]


def arrive_unchanged(images: Sequence[Image.Image], replica: Replica, device: str) -> bool:
    """Pictures and numbers that are sent to the device and fetched back."""
    some, numbers = images[:8], [[1, 2], [3, 4]]
    pictures, back = [replica._replica._recipe.resize(image) for image in some], replica.arrived(some).cpu().numpy()
    arrived = all((one == other).all() for one, other in zip(pictures, back, strict=True))
    return arrived and whole_numbers(numbers, device).tolist() == numbers


@contextmanager
def little_room() -> Iterator[None]:
    """For four tokens at first, so that all answers are longer than usual."""
    usual = slots_module._USUAL_PROMPT_TOKENS, slots_module._USUAL_TOKENS
    slots_module._USUAL_PROMPT_TOKENS, slots_module._USUAL_TOKENS = 8, 4
    try:
        yield
    finally:
        slots_module._USUAL_PROMPT_TOKENS, slots_module._USUAL_TOKENS = usual


@contextmanager
def captures_fail() -> Iterator[None]:
    """Whatever is captured asks the device for a value, which no graph may."""
    graph = torch.cuda.graph

    class Failing(graph):
        def __exit__(self, *error: Any) -> None:
            try:
                torch.ones(1, device="cuda").item()
            finally:
                super().__exit__(*error)

    torch.cuda.graph = Failing
    try:
        yield
    finally:
        torch.cuda.graph = graph


def functions_of(model: Any, kernels: str) -> Functions:
    """As the engine would choose them."""
    parameter = next(model.parameters())
    return choose_functions(kernels, model.config, parameter.dtype, str(parameter.device))


def tower(model: Any, kernels: str = "plain") -> Callable[[torch.Tensor], torch.Tensor]:
    return VisionTower(model, functions_of(model, kernels))


def stages(model: Any) -> list[tuple[int, Any]]:
    """Channels of each of the tower's stages, and its first block's halves."""
    davit = model.model.vision_tower
    halves = [halves for _, halves in VisionTower(model)._stages]
    return [(channels, of[:2]) for channels, of in zip(davit.config.embed_dim, halves, strict=True)]


class Steps:
    """The decoder's step with 3 beams, for slots that are full of noise."""

    def __init__(
        self, machine: Machine, model: Any, slots: int, image_tokens: int, prompt_tokens: int, kernels: str
    ) -> None:
        self._prompt = image_tokens + prompt_tokens
        rules = GenerationRules.of(model.generation_config)
        weights = DecoderWeights(model, functions_of(model, kernels))
        self._decoder = Decoder(weights, rules, slots, Room(1024, 1024), machine.device)
        layers, _, heads, _, width = self._decoder.caches.cross_keys.shape
        for some in torch.arange(slots, device=machine.device).split(64):
            keys, values = (machine.random(layers, len(some), heads, self._prompt, width) for _ in range(2))
            self._decoder.begin(some, torch.full_like(some, 1000), keys, values)
        self._stepper: DirectStepper | GraphStepper = DirectStepper(self._decoder)
        if machine.on_cuda:
            self._stepper = GraphStepper(self._decoder, Graphs(Place()), image_tokens)
            self._stepper.warm_up()

    def as_the_engine(self, slots: int, tokens: int) -> Callable[[], None]:
        """Begins far enough from the shape's end for the steps that follow."""
        self._begin(tokens)
        return partial(self._stepper.step, Extent(self._prompt, (Reach(slots, tokens),)))

    def called(self, slots: int, tokens: int) -> Callable[[], None]:
        self._begin(tokens)
        return partial(self._decoder.step, Extent(self._prompt, (Reach(slots, tokens),)))

    def _begin(self, tokens: int) -> None:
        beams = self._decoder.beams
        beams.length.fill_(max(2, tokens - 28))
        beams.done.fill_(False)
        beams.lineage[:, :, :tokens].fill_(0)
