"""What arno-tiny is trained to make small."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arno_shared.scenes.lexicon import COLOURS, SHAPES, TEXTURES, WORDS
from arno_workers.tiny.lessons import Hints
from arno_workers.tiny.tokenizer import LOCATION_BINS

# Most cells show nothing; without this they would drown out the others.
_EMPTY_WEIGHT = 0.1
_CLASSES = (len(COLOURS) + 1, len(SHAPES) + 1, len(WORDS) + 1)


class HintHeads(nn.Module):
    """Linear readers of the image tokens, thrown away after training.

    They make every token say what its cell shows. Left to the answers alone, the vision tower learns nothing in the
    time that a small model is given.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cells = nn.Linear(width, sum(_CLASSES) + 4)
        self.whole = nn.Linear(width, len(TEXTURES))

    def forward(self, image_tokens: Tensor, hints: Hints) -> Tensor:
        """The loss of image tokens of shape (batch, 1 + cells, width), the first being the mean of the others."""
        *kinds, edges = self.cells(image_tokens[:, 1:]).split((*_CLASSES, 4), dim=-1)
        truths = (hints.colours, hints.shapes, hints.words)
        shown = torch.stack([_cell_loss(kind, truth) for kind, truth in zip(kinds, truths, strict=True)]).sum()
        filled = (hints.colours + hints.words) > 0
        boxes = F.l1_loss(edges[filled], hints.boxes[filled])
        texture = F.cross_entropy(self.whole(image_tokens[:, 0]), hints.textures)
        return shown + 5 * boxes + 2 * texture


def _cell_loss(logits: Tensor, truth: Tensor) -> Tensor:
    weights = torch.ones(logits.shape[-1])
    weights[0] = _EMPTY_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), truth.flatten(), weight=weights)


def answer_loss(logits: Tensor, truth: Tensor, first_location: int, blur: float) -> Tensor:
    """Mean loss per token of logits (tokens, vocabulary) against token ids (tokens,).

    A coordinate's neighbours are nearly as right as itself: its target is a bell curve over the `<loc_N>` tokens
    with a standard deviation of `blur` bins.
    """
    scores = F.log_softmax(logits, dim=-1)
    position = truth - first_location
    is_location = (position >= 0) & (position < LOCATION_BINS)
    worded = -scores[~is_location].gather(1, truth[~is_location, None]).sum()
    distance = torch.arange(LOCATION_BINS) - position[is_location, None]
    target = torch.softmax(-0.5 * (distance / blur) ** 2, dim=-1)
    located = scores[is_location, first_location : first_location + LOCATION_BINS]
    return (worded - (target * located).sum()) / truth.numel()
