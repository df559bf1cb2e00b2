"""One replica of Florence-2: transformers' own implementation, driven by `model.generate`.

The vision tower runs once per picture, whatever the number of its prompts. Prompts of the same length and limit are
generated together; there is no padding, so that batching never changes an answer.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from transformers import Florence2ForConditionalGeneration, Florence2Processor
from transformers.modeling_outputs import BaseModelOutput

from arno_shared.errors import ModelUnusable
from arno_shared.messages import Prompt
from arno_shared.prompts import TASKS, Takes
from arno_shared.results import Generation, ModelFacts
from arno_shared.settings import WorkerSettings
from arno_workers.engine import Answer, Ask, Pixels
from arno_workers.engine.locate import Located, folder_revision
from arno_workers.engine.regions import quantize


class FlorenceReplica:
    def __init__(self, located: Located, settings: WorkerSettings, device: str) -> None:
        """Loads the model. Raises ModelUnusable."""
        dtype = _dtype(settings.dtype, device)
        try:
            where: dict[str, Any] = {"revision": located.revision} if located.revision else {}
            self._processor: Any = Florence2Processor.from_pretrained(located.source, **where)
            model: Any = Florence2ForConditionalGeneration.from_pretrained(located.source, dtype=dtype, **where)
        except Exception as error:
            raise ModelUnusable(f"the model {settings.model!r} cannot be loaded: {error}") from error
        self._device, self._dtype = device, dtype
        self._model = model.to(device).eval()
        self._max_sequences = settings.max_batch_images
        self._recipe = _Recipe(self._processor.image_processor, device, dtype)
        text_config = self._model.config.text_config
        self._max_positions = int(text_config.max_position_embeddings)
        self._image_tokens = int(self._processor.num_image_tokens)
        generation = self._model.generation_config
        # The limit is given with each call; a standing one would only be warned about.
        generation.max_length = None
        self.generation: Generation | None = Generation(
            num_beams=generation.num_beams or 1,
            no_repeat_ngram_size=generation.no_repeat_ngram_size or 0,
            length_penalty=1.0 if generation.length_penalty is None else generation.length_penalty,
            early_stopping=bool(generation.early_stopping),
        )
        self.model = ModelFacts(
            id=settings.model,
            revision=self._revision(located),
            dtype=str(dtype).removeprefix("torch."),
        )

    def warm_up(self) -> None:
        """Runs every kind of prompt once. Raises ModelUnusable when the model does not answer."""
        picture = np.zeros((self._recipe.height, self._recipe.width, 3), np.uint8)
        asks = [Ask(self._sentence(token, "something"), 4) for token in TASKS]
        try:
            self.annotate([picture], [asks])
        except Exception as error:
            raise ModelUnusable(f"the model {self.model.id!r} fails on a blank picture: {error}") from error

    def prepare(self, image: Image) -> Pixels:
        return self._recipe.resize(image)

    def ask(self, prompt: Prompt, width: int, height: int) -> Ask:
        task = TASKS[prompt.task]
        given = prompt.text or ""
        if prompt.region is not None:
            given = quantize(prompt.region, width, height)
        # An answer cannot be longer than the decoder has positions for.
        return Ask(self._sentence(prompt.task, given.strip()), min(task.max_new_tokens, self._max_positions - 2))

    @torch.inference_mode()
    def annotate(self, pictures: Sequence[Pixels], asks: Sequence[Sequence[Ask]]) -> list[tuple[Answer, ...]]:
        features = self._model.get_image_features(self._recipe.to_device(pictures)).pooler_output
        answers: dict[tuple[int, int], Answer] = {}
        for wanted, prompt_ids, max_new_tokens in self._groups(asks):
            of_pictures = features[[picture for picture, _ in wanted]]
            given = self._generate(of_pictures, prompt_ids, max_new_tokens)
            answers.update(zip(wanted, given, strict=True))
        return [tuple(answers[i, j] for j in range(len(prompts))) for i, prompts in enumerate(asks)]

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Any:
        parsed = self._processor.post_process_generation(text=answer.raw, task=prompt.task, image_size=(width, height))
        return parsed[prompt.task]

    def _groups(self, asks: Sequence[Sequence[Ask]]) -> Iterator[tuple[list[tuple[int, int]], list[list[int]], int]]:
        """Asks that can be generated together, `(picture, ask)` each, with the token ids of their prompts."""
        groups: dict[tuple[int, int], list[tuple[tuple[int, int], list[int]]]] = defaultdict(list)
        for i, prompts in enumerate(asks):
            for j, ask in enumerate(prompts):
                ids = self._prompt_ids(ask.sentence)
                groups[len(ids), ask.max_new_tokens].append(((i, j), ids))
        for (_, max_new_tokens), members in groups.items():
            for start in range(0, len(members), self._max_sequences):
                batch = members[start : start + self._max_sequences]
                yield [where for where, _ in batch], [ids for _, ids in batch], max_new_tokens

    def _generate(self, features: torch.Tensor, prompt_ids: list[list[int]], max_new_tokens: int) -> Iterator[Answer]:
        """`features`: sequences × image tokens × width, the projected pictures that stand before each prompt."""
        ids = torch.tensor(prompt_ids, device=self._device)
        embedded = torch.cat([features, self._model.get_input_embeddings()(ids).to(features.dtype)], dim=1)
        mask = torch.ones(embedded.shape[:2], dtype=torch.long, device=self._device)
        encoder = self._model.model.language_model.encoder
        encoded = BaseModelOutput(last_hidden_state=encoder(inputs_embeds=embedded, attention_mask=mask)[0])
        generated = self._model.generate(encoder_outputs=encoded, attention_mask=mask, max_new_tokens=max_new_tokens)
        return (self._answer(sequence, max_new_tokens) for sequence in generated.tolist())

    def _answer(self, sequence: list[int], max_new_tokens: int) -> Answer:
        """The sequence begins with the decoder's start token and is padded after its end."""
        ids = sequence[1:]
        while ids and ids[-1] == self._processor.tokenizer.pad_token_id:
            ids.pop()
        raw = self._processor.tokenizer.decode(ids, skip_special_tokens=False)
        return Answer(raw=raw, tokens=len(ids), truncated=len(ids) >= max_new_tokens)

    def _sentence(self, token: str, given: str) -> str:
        sentences = self._processor.task_prompts_without_inputs
        if TASKS[token].takes is Takes.NOTHING:
            return str(sentences[token])
        return str(self._processor.task_prompts_with_input[token].replace("{input}", given))

    def _prompt_ids(self, sentence: str) -> list[int]:
        """Cut so that picture and prompt fit the encoder's positions; the closing token stays."""
        tokenizer = self._processor.tokenizer
        text = tokenizer.bos_token + sentence + tokenizer.eos_token
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        room = self._max_positions - self._image_tokens
        return ids if len(ids) <= room else [*ids[: room - 1], ids[-1]]

    def _revision(self, located: Located) -> str:
        if located.revision is None:
            return folder_revision(Path(located.source))
        return str(getattr(self._model.config, "_commit_hash", None) or located.revision)


class _Recipe:
    """How the checkpoint's image processor makes pixels: resize on the host, the rest on the device."""

    def __init__(self, processor: Any, device: str, dtype: torch.dtype) -> None:
        """Raises ModelUnusable when the processor does something that is not done here."""
        if not (processor.do_resize and processor.do_rescale and processor.do_normalize) or processor.do_center_crop:
            raise ModelUnusable("the image processor must resize, rescale and normalise, and not crop")
        self.height, self.width = int(processor.size["height"]), int(processor.size["width"])
        self._resample = Resampling(int(processor.resample))
        self._device, self._dtype = device, dtype
        self._scale = float(processor.rescale_factor)
        self._mean = torch.tensor(processor.image_mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(processor.image_std, device=device).view(1, 3, 1, 1)

    def resize(self, image: Image) -> Pixels:
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), self._resample)
        return np.asarray(image)

    def to_device(self, pictures: Sequence[Pixels]) -> torch.Tensor:
        """uint8 pictures → normalised `(pictures, 3, height, width)`."""
        pixels = torch.from_numpy(np.stack(pictures)).to(self._device).permute(0, 3, 1, 2)
        return ((pixels * self._scale - self._mean) / self._std).to(self._dtype).contiguous()


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
