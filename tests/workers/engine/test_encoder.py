"""The text encoder gives the keys and values that transformers' encoder and its decoder's layers give."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from arno_workers.engine.encoder import TextEncoder
from tests.workers.engine.odd_models import ODD_MODELS, OddModel, build, image_tokens

CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _features(model: Any, count: int, tokens: int, seed: int = 0) -> Tensor:
    width = model.config.text_config.d_model
    return torch.randn(count, tokens, width, generator=torch.Generator().manual_seed(seed))


def _prompts(model: Any, count: int, tokens: int, seed: int = 1) -> Tensor:
    vocabulary = model.config.text_config.vocab_size
    return torch.randint(vocabulary, (count, tokens), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def _expected(model: Any, features: Tensor, prompt_ids: Tensor) -> tuple[Tensor, Tensor]:
    language = model.model.language_model
    embeds = torch.cat((features, model.get_input_embeddings()(prompt_ids)), 1)
    seen = language.encoder(inputs_embeds=embeds).last_hidden_state
    heads = model.config.text_config.decoder_attention_heads

    def by_head(projected: Tensor) -> Tensor:
        return projected.unflatten(2, (heads, -1)).transpose(1, 2)

    attentions = [layer.encoder_attn for layer in language.decoder.layers]
    keys = torch.stack([by_head(attention.k_proj(seen)) for attention in attentions])
    values = torch.stack([by_head(attention.v_proj(seen)) for attention in attentions])
    return keys, values


def _check(model: Any, features: Tensor, prompt_ids: Tensor) -> None:
    with torch.inference_mode():
        keys, values = TextEncoder(deepcopy(model))(features, prompt_ids)
    expected_keys, expected_values = _expected(model, features, prompt_ids)
    # Relative to what these models' wide weights make of it.
    for found, expected in ((keys, expected_keys), (values, expected_values)):
        scale = expected.std()
        torch.testing.assert_close(found / scale, expected / scale, **CLOSE)


@pytest.mark.parametrize(("count", "tokens"), [(1, 1), (1, 12), (5, 30), (2, 1152 - 65)])
def test_the_bundled_models_keys_and_values_are_those_of_transformers(bundled: Any, count: int, tokens: int) -> None:
    """The last ones take all of the encoder's positions."""
    _check(bundled, _features(bundled, count, 65), _prompts(bundled, count, tokens))


@pytest.mark.parametrize(("count", "tokens"), [(1, 1), (4, 9)])
@pytest.mark.parametrize("odd", ODD_MODELS, ids=str)
def test_an_odd_models_keys_and_values_are_those_of_transformers(odd: OddModel, count: int, tokens: int) -> None:
    model = build(odd)
    _check(model, _features(model, count, image_tokens(odd)), _prompts(model, count, tokens))


@pytest.mark.parametrize("odd", ODD_MODELS, ids=str)
def test_an_odd_model_takes_a_prompt_for_every_position_that_it_has(odd: OddModel) -> None:
    model, picture = build(odd), image_tokens(odd)
    most = odd.text["max_position_embeddings"]
    _check(model, _features(model, 2, picture), _prompts(model, 2, most - picture))


@torch.inference_mode()
def test_a_prompts_keys_and_values_do_not_depend_on_its_neighbours(bundled: Any) -> None:
    encoder = TextEncoder(bundled)
    features, prompt_ids = _features(bundled, 6, 65), _prompts(bundled, 6, 10)
    keys, values = encoder(features, prompt_ids)
    for n in range(6):
        alone_keys, alone_values = encoder(features[n : n + 1], prompt_ids[n : n + 1])
        torch.testing.assert_close(alone_keys[:, 0], keys[:, n], **CLOSE)
        torch.testing.assert_close(alone_values[:, 0], values[:, n], **CLOSE)
    assert not torch.allclose(keys[:, 0], keys[:, 1], atol=0.1)


@torch.inference_mode()
def test_in_bfloat16_keys_and_values_are_as_near_as_those_of_transformers(bundled: Any) -> None:
    features, prompt_ids = _features(bundled, 4, 65), _prompts(bundled, 4, 10)
    exact = _expected(bundled, features, prompt_ids)
    short = deepcopy(bundled).bfloat16()
    theirs = _expected(short, features.bfloat16(), prompt_ids)
    ours = TextEncoder(short)(features.bfloat16(), prompt_ids)
    for near, their, our in zip(exact, theirs, ours, strict=True):
        assert our.dtype == torch.bfloat16
        assert (our.float() - near).abs().mean() < 1.5 * (their.float() - near).abs().mean()


@torch.inference_mode()
def test_where_half_precision_overflows_the_encoder_clamps_as_transformers_does(bundled: Any) -> None:
    """Infinity times a weight of 0 is NaN, for whoever looks at it."""
    model = deepcopy(bundled).half()
    language = model.model.language_model
    norm = language.encoder.layers[-1].final_layer_norm
    norm.weight.copy_(torch.sign(norm.weight) * 6e4)
    for layer in language.decoder.layers:
        layer.encoder_attn.k_proj.weight *= 1e-4
        layer.encoder_attn.v_proj.weight *= 1e-4
    features, prompt_ids = _features(model, 2, 65).half(), _prompts(model, 2, 10)
    seen = language.encoder(inputs_embeds=torch.cat((features, language.shared(prompt_ids)), 1)).last_hidden_state
    assert 6.4e4 < seen.max() < torch.finfo(torch.float16).max
    for ours, theirs in zip(
        TextEncoder(model)(features, prompt_ids), _expected(model, features, prompt_ids), strict=True
    ):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)


def test_prompts_are_embedded_as_the_whole_model_does_it(bundled: Any) -> None:
    """A checkpoint may hold other embeddings in its encoder; transformers does not use them for prompts."""
    model = deepcopy(bundled)
    model.model.language_model.encoder.embed_tokens = deepcopy(model.get_input_embeddings())
    torch.nn.init.normal_(model.model.language_model.encoder.embed_tokens.weight)
    _check(model, _features(model, 2, 65), _prompts(model, 2, 7))
