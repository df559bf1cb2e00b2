"""Each step gives the probabilities that transformers' decoder gives for the same tokens."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Florence2ForConditionalGeneration, GenerationConfig, NoRepeatNGramLogitsProcessor

from arno_workers.engine.caches import Room
from arno_workers.engine.decoder import Decoder, DecoderWeights
from arno_workers.engine.encoder import TextEncoder
from arno_workers.engine.functions import Extent, Reach
from arno_workers.engine.generation import GenerationRules
from tests.workers.engine.odd_models import BABBLERS, ODD_MODELS, TINY, OddModel, build

CLOSE = {"atol": 5e-5, "rtol": 1e-5}
IMAGE_TOKENS = 6
ROOM = Room(64, 64)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass
class Step:
    """What the decoder told the search: for each beam of each slot its sequence and its best next tokens."""

    sequences: Tensor
    lengths: Tensor
    logprobs: Tensor
    candidates: Tensor
    live: list[int]


@dataclass
class Listener:
    """Hears every step of a decoder, and lets it go on."""

    decoder: Decoder
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._advance = self.decoder.beams.advance
        self.decoder.beams.advance = self._hear  # type: ignore[method-assign]

    def _hear(self, slots: int, tokens: int, logprobs: Tensor, candidates: Tensor) -> None:
        beams = self.decoder.beams
        live = [slot for slot in range(slots) if not beams.done[slot]]
        said = beams.sequences(slots, tokens).clone()
        self.steps.append(Step(said, beams.length[:slots].clone(), logprobs.clone(), candidates.clone(), live))
        self._advance(slots, tokens, logprobs, candidates)


def _extent(slots: int, prompt_tokens: int, tokens: int) -> Extent:
    return Extent(prompt_tokens, (Reach(slots, tokens),))


def _rules(model: Any, **rules: Any) -> GenerationRules:
    return GenerationRules.of(GenerationConfig.from_dict({**model.generation_config.to_dict(), **rules}))


def _requests(model: Any, prompt_tokens: list[int], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    text = model.config.text_config
    for tokens in prompt_tokens:
        features = torch.randn(1, IMAGE_TOKENS, text.d_model, generator=random)
        yield features, torch.randint(text.vocab_size, (1, tokens), generator=random)


def _seen(model: Any, features: Tensor, prompt_ids: Tensor) -> Tensor:
    embeds = torch.cat((features, model.get_input_embeddings()(prompt_ids)), 1)
    seen = model.model.language_model.encoder(inputs_embeds=embeds).last_hidden_state
    assert isinstance(seen, Tensor)
    return seen


def _teacher_forced(model: Any, seen: Tensor, sequence: Tensor, ngram_size: int) -> Tensor:
    """The log-probabilities of what comes after the sequence, all of it given at once and nothing cached."""
    hidden = model.model.language_model.decoder(
        input_ids=sequence[None], encoder_hidden_states=seen, use_cache=False
    ).last_hidden_state
    logprobs = model.lm_head(hidden[:, -1]).float().log_softmax(-1)
    if ngram_size:
        logprobs = NoRepeatNGramLogitsProcessor(ngram_size)(sequence[None], logprobs)
    assert isinstance(logprobs, Tensor)
    return logprobs[0]


@torch.inference_mode()
def _check(model: Any, rules: GenerationRules, slots: int, prompts: dict[int, int], steps: int, seed: int) -> int:
    """Puts a request with that many prompt tokens into each slot; how many sequences were compared."""
    weights = DecoderWeights(model)
    decoder = Decoder(weights, rules, slots, ROOM, "cpu")
    listener, encoder, seen = Listener(decoder), TextEncoder(model), {}
    for slot, (features, prompt_ids) in zip(prompts, _requests(model, list(prompts.values()), seed), strict=True):
        decoder.begin(torch.tensor([slot]), torch.tensor([steps]), *encoder(features, prompt_ids))
        seen[slot] = _seen(model, features, prompt_ids)
    longest = IMAGE_TOKENS + max(prompts.values())
    for step in range(steps - len(rules.prefix) + 1):
        decoder.step(_extent(max(prompts) + 1, longest, len(rules.prefix) + step))
    compared = 0
    for step in listener.steps:
        for slot in set(step.live) & set(prompts):
            length = int(step.lengths[slot])
            for beam in range(rules.num_beams):
                sequence = step.sequences[slot, beam, :length]
                expected = _teacher_forced(model, seen[slot], sequence, rules.no_repeat_ngram_size)
                best = expected.topk(rules.candidates).values
                torch.testing.assert_close(step.logprobs[slot, beam], best, **CLOSE)
                torch.testing.assert_close(expected[step.candidates[slot, beam]], best, **CLOSE)
                compared += 1
    return compared


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("forced_bos", [None, 0])
@pytest.mark.parametrize("odd", [*ODD_MODELS, *BABBLERS], ids=str)
def test_every_beams_probabilities_are_those_of_transformers(
    odd: OddModel, forced_bos: int | None, num_beams: int
) -> None:
    """Prompts of different lengths share a step; some slots are empty, and some are done before others."""
    model = build(odd)
    rules = _rules(
        model, num_beams=num_beams, forced_bos_token_id=forced_bos, no_repeat_ngram_size=0, eos_token_id=[1, 4]
    )
    compared = _check(model, rules, slots=8, prompts={1: 4, 5: 1, 2: 9, 6: 4}, steps=9, seed=num_beams)
    assert compared >= 20


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_bundled_models_probabilities_are_those_of_transformers(bundled: Any, num_beams: int) -> None:
    rules = _rules(bundled, num_beams=num_beams)
    _check(bundled, rules, slots=3, prompts={2: 12, 0: 30, 1: 5}, steps=16, seed=3)


@pytest.mark.parametrize("ngram_size", [1, 2, 3, 5])
@pytest.mark.parametrize("odd", BABBLERS, ids=str)
def test_what_would_be_said_twice_is_banned_as_in_transformers(odd: OddModel, ngram_size: int) -> None:
    model = build(odd)
    rules = _rules(model, num_beams=2, no_repeat_ngram_size=ngram_size, eos_token_id=0, forced_bos_token_id=7)
    _check(model, rules, slots=2, prompts={0: 3, 1: 6}, steps=22, seed=ngram_size)


@torch.inference_mode()
def _spoken(odd: OddModel, extra: tuple[int, int, int], steps: int = 12) -> list[Step]:
    """Of two requests in slots 0 and 1, in steps with room for more than they need."""
    model = build(odd)
    weights, encoder = DecoderWeights(model), TextEncoder(model)
    rules = _rules(model, num_beams=3, forced_bos_token_id=0, eos_token_id=0, no_repeat_ngram_size=2)
    decoder = Decoder(weights, rules, 6, ROOM, "cpu")
    listener = Listener(decoder)
    for slot, (features, prompt_ids) in enumerate(_requests(model, [3, 5], seed=8)):
        decoder.begin(torch.tensor([slot]), torch.tensor([30]), *encoder(features, prompt_ids))
    for step in range(steps):
        decoder.step(_extent(2 + extra[0], IMAGE_TOKENS + 5 + extra[1], 2 + step + extra[2]))
    return listener.steps


@pytest.mark.parametrize("extra", [(4, 0, 0), (0, 11, 0), (0, 0, 20), (3, 29, 26)], ids=str)
@pytest.mark.parametrize("odd", BABBLERS, ids=str)
def test_a_step_with_room_for_more_gives_the_same(odd: OddModel, extra: tuple[int, int, int]) -> None:
    """Room for more slots, for longer prompts, for longer answers: a graph's shapes are rounded up."""
    for exact, roomy in zip(_spoken(odd, (0, 0, 0)), _spoken(odd, extra), strict=True):
        assert roomy.live == [0, 1]
        tokens = exact.sequences.shape[2]
        assert torch.equal(exact.sequences, roomy.sequences[:2, :, :tokens])
        assert torch.equal(exact.candidates, roomy.candidates[:2])
        torch.testing.assert_close(exact.logprobs, roomy.logprobs[:2], **CLOSE)


@torch.inference_mode()
def test_a_head_is_as_wide_as_the_vocabulary_says() -> None:
    """Columns that pad the product are never candidates, even where everything else is banned."""
    odd = BABBLERS[0]
    model = build(odd)
    rules = _rules(model, num_beams=2, no_repeat_ngram_size=1, eos_token_id=0)
    weights, encoder = DecoderWeights(model), TextEncoder(model)
    decoder = Decoder(weights, rules, 1, ROOM, "cpu")
    listener = Listener(decoder)
    ((features, prompt_ids),) = _requests(model, [2], seed=1)
    decoder.begin(torch.tensor([0]), torch.tensor([38]), *encoder(features, prompt_ids))
    for step in range(36):
        decoder.step(_extent(1, IMAGE_TOKENS + 2, 1 + step))
    for heard in listener.steps:
        assert heard.candidates.max() < odd.text["vocab_size"]
        assert heard.logprobs.isfinite().all()


@pytest.mark.parametrize("odd", BABBLERS, ids=str)
@torch.inference_mode()
def test_in_bfloat16_probabilities_are_as_near_as_those_of_transformers(odd: OddModel) -> None:
    model = build(odd)
    short = Florence2ForConditionalGeneration(model.config).eval()
    short.load_state_dict(model.state_dict())
    short.generation_config = model.generation_config
    short = short.bfloat16()
    rules = _rules(model, num_beams=1)
    weights, encoder = DecoderWeights(short), TextEncoder(short)
    far = {"ours": 0.0, "theirs": 0.0}
    for seed in range(12):
        decoder = Decoder(weights, rules, 1, ROOM, "cpu")
        listener = Listener(decoder)
        ((features, prompt_ids),) = _requests(model, [4], seed)
        decoder.begin(torch.tensor([0]), torch.tensor([4]), *encoder(features.bfloat16(), prompt_ids))
        decoder.step(_extent(1, IMAGE_TOKENS + 4, 1))
        (heard,) = listener.steps
        sequence, candidates = heard.sequences[0, 0, :1], heard.candidates[0, 0]
        exact = _teacher_forced(model, _seen(model, features, prompt_ids), sequence, 0)[candidates]
        theirs = _teacher_forced(short, _seen(short, features.bfloat16(), prompt_ids), sequence, 0)[candidates]
        far["ours"] += float((heard.logprobs[0, 0] - exact).abs().mean())
        far["theirs"] += float((theirs - exact).abs().mean())
    assert far["ours"] < 2 * far["theirs"]


def test_a_token_that_does_not_exist_harms_nobody() -> None:
    """Where everything is NaN, the best token may be one of the spare columns; its slot takes the next step as well."""
    weights = DecoderWeights(Florence2ForConditionalGeneration.from_pretrained(TINY))
    beyond = torch.full((1, 3), weights.vocabulary + 2)
    assert weights.embed(beyond, torch.tensor([4])).isfinite().all()


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_no_mask_is_laid_out_as_no_fused_attention_on_cuda_takes_it(
    dtype: torch.dtype, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spread over all heads and queries, as torch does it, neighbours of a mask must be neighbours in memory."""
    attention, strides = F.scaled_dot_product_attention, []

    def watched(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None, **how: Any) -> Tensor:
        if attn_mask is not None:
            strides.append(attn_mask.expand(*queries.shape[:-1], keys.shape[-2]).stride(-1))
        return attention(queries, keys, values, attn_mask=attn_mask, **how)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    model = Florence2ForConditionalGeneration.from_pretrained(TINY, dtype=dtype).eval()
    rules = _rules(model, num_beams=num_beams, forced_bos_token_id=0)
    decoder = Decoder(DecoderWeights(model), rules, 4, ROOM, "cpu")
    with torch.inference_mode():
        for slot, (features, prompt_ids) in enumerate(_requests(model, [3, 1], seed=2)):
            keys, values = TextEncoder(model)(features.to(dtype), prompt_ids)
            decoder.begin(torch.tensor([slot]), torch.tensor([9]), keys, values)
        for tokens in (2, 3):
            decoder.step(_extent(3, IMAGE_TOKENS + 3, tokens))
    assert set(strides) == {1}
