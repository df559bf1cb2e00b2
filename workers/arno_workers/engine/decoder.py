"""The decoder: one token more for every slot, in one pass of static shapes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arno_workers.engine.attention import attend
from arno_workers.engine.beams import Beams
from arno_workers.engine.caches import Room, SlotCaches
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.largest import BLOCK, largest
from arno_workers.engine.linear import Fused
from arno_workers.engine.rules import ban_repeated_ngrams


class _Layer:
    """A BartDecoderLayer's weights, with the products that share an operand fused."""

    def __init__(self, layer: Any) -> None:
        own, cross = layer.self_attn, layer.encoder_attn
        self.own_in, self.own_out = Fused(own.q_proj, own.k_proj, own.v_proj), own.out_proj
        self.cross_in, self.cross_out = cross.q_proj, cross.out_proj
        self.own_norm, self.cross_norm, self.norm = (
            layer.self_attn_layer_norm,
            layer.encoder_attn_layer_norm,
            layer.final_layer_norm,
        )
        self.fc1, self.fc2, self.activation = layer.fc1, layer.fc2, layer.activation_fn

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.fc2(self.activation(self.fc1(x))))  # type: ignore[no-any-return]


class DecoderWeights:
    """A BartDecoder and the head, as transformers holds them; shared by the decoders of every number of beams."""

    def __init__(self, model: Any) -> None:
        decoder = model.model.language_model.decoder
        text = model.config.text_config
        self.embed_tokens, self.embed_positions = decoder.embed_tokens, decoder.embed_positions
        self.embed_norm: nn.LayerNorm = decoder.layernorm_embedding
        self.layers = [_Layer(layer) for layer in decoder.layers]
        self.heads: int = text.decoder_attention_heads
        self.width: int = text.d_model // text.decoder_attention_heads
        self.max_positions: int = text.max_position_embeddings
        # Spare columns, at least one: a place for what is banned from nothing, and a size that divides well.
        self.vocabulary: int = model.lm_head.weight.shape[0]
        spare = BLOCK - self.vocabulary % BLOCK
        self.head = F.pad(model.lm_head.weight.detach(), (0, 0, 0, spare))
        self.head_bias = F.pad(self.head.new_zeros(self.vocabulary), (0, spare), value=-torch.inf)

    @property
    def dtype(self) -> torch.dtype:
        return self.head.dtype

    def embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """(slots, W, width of the model), of tokens (slots, W) that all stand at `position`, (slots,)."""
        places = F.embedding(position + self.embed_positions.offset, self.embed_positions.weight)
        # Where scores are NaN, the best token is none that exists.
        known = tokens.clamp(max=self.vocabulary - 1)
        return self.embed_norm(self.embed_tokens(known) + places[:, None])  # type: ignore[no-any-return]


class Decoder:
    """Slots for requests with one number of beams, and the step that all of them take together."""

    def __init__(self, weights: DecoderWeights, rules: GenerationRules, slots: int, room: Room, device: str) -> None:
        """`room`: what the caches are made for; they grow when more is needed, as far as the model has positions."""
        self.slots = slots
        self.beams = Beams(rules, slots, weights.max_positions, device)
        self.caches = SlotCaches(
            layers=len(weights.layers),
            slots=slots,
            heads=weights.heads,
            width=weights.width,
            beams=rules.num_beams,
            room=room,
            most=Room(weights.max_positions, weights.max_positions),
            dtype=weights.dtype,
            device=device,
        )
        self._weights, self._rules = weights, rules
        self._slot = torch.arange(slots, device=device)[:, None]
        self._head = torch.arange(weights.heads, device=device)[None]
        self._row = torch.arange(rules.num_beams, device=device)

    def begin(self, slots: Tensor, max_new_tokens: Tensor, keys: Tensor, values: Tensor) -> None:
        """Gives new requests their `slots`, (n,). keys, values: (L, n, H, prompt tokens, D) of the cross-attention."""
        self.caches.fill(slots, keys, values)
        self.beams.begin(slots, max_new_tokens)
        for position, token in enumerate(self._rules.prefix[:-1]):
            self._say(slots, position, token, keys, values)

    def step(self, slots: int, prompt_tokens: int, tokens: int) -> None:
        """One token for the first `slots` slots, whose prompts have at most `prompt_tokens` and answers `tokens`."""
        weights, beams = self._weights, self.beams
        self.caches.make_room(prompt_tokens, tokens)
        said, position = beams.enter(slots)
        x = weights.embed(said, position)
        # Every row of a slot is looked at by all of its beams, but each sees its own past alone.
        own_bias = torch.where(beams.lineage[:slots, :, :tokens, None] == self._row, 0.0, -torch.inf)
        own_bias = own_bias.flatten(2)[:, None].to(x.dtype)
        for number, layer in enumerate(weights.layers):
            x = layer.own_norm(x + layer.own_out(self._own_attention(number, layer, x, position, tokens, own_bias)))
            x = layer.cross_norm(x + layer.cross_out(self._cross_attention(number, layer, x, prompt_tokens)))
            x = layer.feed_forward(x)
        logits = F.linear(x.flatten(0, 1), weights.head, weights.head_bias)
        logprobs = torch.log_softmax(logits, -1, dtype=torch.float32)
        if self._rules.no_repeat_ngram_size:
            sequences = beams.sequences(slots, tokens).flatten(0, 1)
            lengths = beams.length[:slots, None].expand(-1, self._rules.num_beams).reshape(-1, 1)
            ban_repeated_ngrams(logprobs, sequences, lengths, self._rules.no_repeat_ngram_size)
        best, candidates = largest(logprobs, self._rules.candidates)
        shape = (slots, self._rules.num_beams, self._rules.candidates)
        beams.advance(slots, tokens, best.view(shape), candidates.view(shape))

    def _own_attention(
        self, number: int, layer: _Layer, x: Tensor, position: Tensor, tokens: int, bias: Tensor
    ) -> Tensor:
        slots = x.shape[0]
        heads, width = self._weights.heads, self._weights.width
        queries, keys, values = layer.own_in(x).view(slots, -1, 3, heads, width).permute(2, 0, 3, 1, 4).unbind(0)
        place = (self._slot[:slots], self._head, position[:, None])
        own_keys, own_values = self.caches.own_keys[number], self.caches.own_values[number]
        own_keys[place] = keys
        own_values[place] = values
        past = (own_keys[:slots, :, :tokens].flatten(2, 3), own_values[:slots, :, :tokens].flatten(2, 3))
        return attend(queries, *past, bias).transpose(1, 2).flatten(2)

    def _cross_attention(self, number: int, layer: _Layer, x: Tensor, prompt_tokens: int) -> Tensor:
        slots, caches = x.shape[0], self.caches
        return _cross(
            layer.cross_in(x),
            caches.cross_keys[number, :slots, :, :prompt_tokens],
            caches.cross_values[number, :slots, :, :prompt_tokens],
            caches.cross_bias[:slots, ..., :prompt_tokens],
        )

    def _say(self, slots: Tensor, position: int, token: int, keys: Tensor, values: Tensor) -> None:
        """Takes in a token that every sequence begins with: once for all beams, and without asking what comes next.

        It stands alone, or behind nothing that differs, so that its attention to itself is its own value.
        """
        weights = self._weights
        count, heads, width = slots.shape[0], weights.heads, weights.width
        x = weights.embed(slots.new_full((count, 1), token), torch.full_like(slots, position))
        unmasked = x.new_zeros(1, 1)
        for number, layer in enumerate(weights.layers):
            _, key, value = layer.own_in(x).view(count, 3, heads, width).unbind(1)
            self.caches.own_keys[number][slots, :, position, 0] = key
            self.caches.own_values[number][slots, :, position, 0] = value
            x = layer.own_norm(x + layer.own_out(value.flatten(1)[:, None]))
            x = layer.cross_norm(x + layer.cross_out(_cross(layer.cross_in(x), keys[number], values[number], unmasked)))
            x = layer.feed_forward(x)


def _cross(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """queries: (slots, W, H · D); keys, values: (slots, H, prompt tokens, D) → (slots, W, H · D)."""
    slots, heads, _, width = keys.shape
    queries = queries.view(slots, -1, heads, width).transpose(1, 2)
    return attend(queries, keys, values, bias).transpose(1, 2).flatten(2)
