"""The model while it learns."""

import torch
from torch import Tensor, nn
from transformers import BartTokenizer, Florence2ForConditionalGeneration

from arno_workers.tiny.lessons import Lesson
from arno_workers.tiny.losses import HintHeads, answer_loss
from arno_workers.tiny.model import IMAGE_MEAN, IMAGE_STD, WIDTH
from arno_workers.tiny.tokenizer import first_location


class Pupil(nn.Module):
    """A model together with the hint heads that it sheds afterwards."""

    def __init__(self, model: Florence2ForConditionalGeneration, tokenizer: BartTokenizer) -> None:
        super().__init__()
        self.model = model
        self.heads = HintHeads(WIDTH)
        self.first_location = first_location(tokenizer)
        self.padding = tokenizer.pad_token_id
        # Florence-2's decoder starts from the end token.
        self.start = tokenizer.eos_token_id

    def forward(self, lesson: Lesson, blur: float) -> tuple[Tensor, Tensor]:
        """The losses of the answers and of the hints. Each picture is looked at once for all its questions."""
        seen: Tensor = self.model.get_image_features(normalise(lesson.pixels)).pooler_output
        written = lesson.answers != self.padding
        scores = self.model.lm_head(self._read(seen, lesson)[written])
        answers = answer_loss(scores, lesson.answers[written], self.first_location, blur)
        return answers, self.heads(seen, lesson.hints)

    def _read(self, seen: Tensor, lesson: Lesson) -> Tensor:
        """The decoder's states, (tasks * batch, length, width), over image tokens of shape (batch, tokens, width)."""
        tasks = len(lesson.prompts) // len(seen)
        asked = torch.cat([seen.repeat(tasks, 1, 1), self.model.get_input_embeddings()(lesson.prompts)], dim=1)
        attended = torch.ones(asked.shape[:2], dtype=torch.long)
        attended[:, seen.shape[1] :] = lesson.prompts != self.padding
        states: Tensor = self.model.model(
            inputs_embeds=asked,
            attention_mask=attended,
            decoder_input_ids=self._shifted(lesson.answers),
            use_cache=False,
        ).last_hidden_state
        return states

    def _shifted(self, answers: Tensor) -> Tensor:
        """What stands before each token as it is written."""
        return torch.cat([answers.new_full((len(answers), 1), self.start), answers[:, :-1]], dim=1)


def normalise(pixels: Tensor) -> Tensor:
    """What the image processor makes of uint8 pixels of shape (batch, 3, side, side)."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (pixels / 255 - mean) / deviation
