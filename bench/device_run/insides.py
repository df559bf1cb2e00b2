"""Every name behind the engine's door that a part needs: who moves it there changes it here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.settings import WorkerSettings
from arno_workers.engine import slots as slots_module
from arno_workers.engine import vision as vision_module
from arno_workers.engine.caches import Room
from arno_workers.engine.decoder import Decoder, DecoderWeights
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.locate import Located
from arno_workers.engine.scheduler import Picture, Request
from arno_workers.engine.staging import pin, to_device, whole_numbers
from arno_workers.engine.stepper import DirectStepper, GraphStepper
from device_run.machine import Machine


def known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that WorkerSettings has."""
    return {name: value for name, value in settings.items() if name in WorkerSettings.model_fields}


class Replica:
    """One copy of a model without the thread that usually owns it, stage by stage and as a whole."""

    def __init__(self, folder: Path, device: str, dtype: Any, **settings: Any) -> None:
        self.device = device
        worker = WorkerSettings(dtype=dtype, slots=40, max_batch_images=8, **settings)
        self._replica = FlorenceReplica(Located(str(folder), None), worker, device)

    @property
    def dtype(self) -> str:
        return self._replica.model.dtype

    def slots(self, beams: int) -> int:
        return self._replica.limits.slots(beams)

    def warm_up(self) -> None:
        self._replica.warm_up()

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Normalised, (n, 3, height, width)."""
        prepared = [self._replica.prepare(image) for image in images]
        return self._replica._recipe.normalise(to_device(prepared, self.device))

    @torch.inference_mode()
    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """The vision tower and the projector."""
        return self._replica._vision(pixels)

    @torch.inference_mode()
    def encode(self, features: torch.Tensor, sentence: str) -> torch.Tensor:
        """The text encoder: keys and values for the decoder, in one tensor."""
        ids = [self._replica.prompt_ids(sentence)] * len(features)
        return torch.stack(self._replica._encoder(features, whole_numbers(ids, self.device)))

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
    pictures, numbers = [replica._replica._recipe.resize(image) for image in images], [[1, 2], [3, 4]]
    back = to_device([pin(each, device) for each in pictures], device).cpu().numpy()
    arrived = all((one == other).all() for one, other in zip(pictures, back, strict=True))
    return arrived and whole_numbers(numbers, device).tolist() == numbers


@contextmanager
def no_graphs() -> Iterator[None]:
    """The decoder's step is called, as on a CPU."""
    graphs = slots_module.GraphStepper
    slots_module.GraphStepper = lambda decoder, _: DirectStepper(decoder)
    try:
        yield
    finally:
        slots_module.GraphStepper = graphs


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


def tower(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """It lays the model's weights out anew."""
    return vision_module.VisionTower(model)


@dataclass(frozen=True)
class Stage:
    """One of the tower's, by its first block."""

    channels: int
    depth: int
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]]
    """Of (pictures, rows, columns, channels); `block` is all of them."""


def stages(model: Any) -> list[Stage]:
    tower(model)
    davit = model.model.vision_tower
    return [
        Stage(channels, depth, _functions(blocks[0]))
        for channels, depth, blocks in zip(davit.config.embed_dim, davit.config.depths, davit.blocks, strict=True)
    ]


def _functions(block: Any) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    spatial, channel, convolve = block.spatial_block, block.channel_block, vision_module._convolve

    def windows(x: torch.Tensor) -> torch.Tensor:
        x = convolve(spatial.conv1, x) + x
        return x + vision_module.window_attention(spatial.window_attn, spatial.norm1(x))

    def channels(x: torch.Tensor) -> torch.Tensor:
        x = convolve(channel.conv1, x) + x
        return x + vision_module.channel_attention(channel.channel_attn, channel.norm1(x))

    def feed_forward(half: Any, x: torch.Tensor) -> torch.Tensor:
        x = convolve(half.conv2, x) + x
        return x + half.ffn(half.norm2(x))

    def whole(x: torch.Tensor) -> torch.Tensor:
        return feed_forward(channel, channels(feed_forward(spatial, windows(x))))

    return {"block": whole, "windows": windows, "channels": channels, "feed_forward": partial(feed_forward, spatial)}


class Steps:
    """The decoder's step with 3 beams, for slots that are full of noise."""

    def __init__(self, machine: Machine, model: Any, slots: int, image_tokens: int, prompt_tokens: int) -> None:
        self._prompt = image_tokens + prompt_tokens
        rules = GenerationRules.of(model.generation_config)
        self._decoder = Decoder(DecoderWeights(model), rules, slots, Room(1024, 1024), machine.device)
        layers, _, heads, _, width = self._decoder.caches.cross_keys.shape
        for some in torch.arange(slots, device=machine.device).split(64):
            keys, values = (machine.random(layers, len(some), heads, self._prompt, width) for _ in range(2))
            self._decoder.begin(some, torch.full_like(some, 1000), keys, values)
        self._stepper = GraphStepper(self._decoder, image_tokens) if machine.on_cuda else DirectStepper(self._decoder)

    def as_the_engine(self, slots: int, tokens: int) -> Callable[[], None]:
        """Begins far enough from the shape's end for the steps that follow."""
        self._decoder.beams.length.fill_(max(2, tokens - 28))
        return partial(self._stepper.step, slots, self._prompt, tokens)

    def called(self, slots: int, tokens: int) -> Callable[[], None]:
        return partial(self._decoder.step, slots, self._prompt, tokens)
