"""How requests come into their slots: the text encoder reads pictures and prompts, and the decoder begins there."""

import torch
from torch import Tensor

from arno_workers.engine.batch import Batch
from arno_workers.engine.decoder import Decoder
from arno_workers.engine.encoder import TextEncoder
from arno_workers.engine.graphs import Runner


class Admission:
    """One stage for each number of prompt tokens that was captured; others are called."""

    def __init__(self, encoder: TextEncoder, decoder: Decoder, runner: Runner) -> None:
        self._encoder, self._decoder, self._runner = encoder, decoder, runner
        self._stages: dict[int, Batch] = {}

    def __call__(self, features: Tensor, prompt_ids: Tensor, slots: Tensor, limits: Tensor) -> None:
        """features: (n, image tokens, width of the model); prompt_ids: (n, prompt tokens); slots, and limits of new
        tokens: (n,)."""
        stage = self._stages.get(prompt_ids.shape[1], self._admit)
        stage(features, prompt_ids, slots, limits)

    def capture(self, prompt_tokens: int, features: Tensor) -> None:
        """For prompts of that many tokens. features: of pictures, as many as the largest batch has. Raises
        CaptureFailed."""
        slots = torch.full(features.shape[:1], self._decoder.slots, device=features.device)
        prompt_ids = slots.new_zeros(len(features), prompt_tokens)
        inputs = (features, prompt_ids, slots, torch.full_like(slots, 2))
        # What a batch is padded with goes into the slot in which no step looks.
        stage = Batch(self._runner, ("admit", prompt_tokens), self._admit, inputs, (None, None, self._decoder.slots, 2))
        stage.capture()
        self._stages[prompt_tokens] = stage

    def _admit(self, features: Tensor, prompt_ids: Tensor, slots: Tensor, limits: Tensor) -> None:
        self._decoder.begin(slots, limits, *self._encoder(features, prompt_ids))
