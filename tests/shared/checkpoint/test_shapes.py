"""What a configuration says that there is, is what transformers makes of it."""

from typing import Any

import pytest
import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration

from arno_shared.checkpoint.shapes import COPIES, expected_shapes, image_tokens
from arno_shared.errors import ModelUnusable
from tests.checkpoints import BASE, REAL_BASE, REAL_LARGE, config_of
from tests.workers.engine.odd_models import ODD_MODELS, TINY, build
from tests.workers.engine.odd_models import image_tokens as image_tokens_of

CONFIGS = {
    "arno-tiny": lambda: Florence2Config.from_pretrained(TINY),
    "transformers' defaults": Florence2Config,
    "base": lambda: config_of(REAL_BASE),
    "large": lambda: config_of(REAL_LARGE),
    "small": lambda: config_of(BASE),
    **{odd.name: lambda odd=odd: build(odd).config for odd in ODD_MODELS},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_are_those_of_the_model(name: str) -> None:
    config: Any = CONFIGS[name]()
    with torch.device("meta"):
        model = Florence2ForConditionalGeneration(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in COPIES}
    assert expected_shapes(config.to_dict()) == shapes
    # As it is saved: what stands at its default is left out.
    assert expected_shapes(config.to_diff_dict()) == shapes


@pytest.mark.parametrize("odd", ODD_MODELS, ids=lambda odd: odd.name)
def test_a_picture_is_as_many_tokens_as_the_tower_makes_of_it(odd: Any) -> None:
    assert image_tokens(build(odd).config.to_dict(), odd.height, odd.width) == image_tokens_of(odd)


def test_florence_makes_577_tokens_of_a_picture() -> None:
    assert image_tokens({}, 768, 768) == 577


@pytest.mark.parametrize(
    "config",
    [{"vision_config": {"embed_dim": 7}}, {"vision_config": {"depths": []}}, {"text_config": {"d_model": "wide"}}],
)
def test_a_configuration_that_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelUnusable, match=r"config\.json cannot be made sense of"):
        expected_shapes(config)
