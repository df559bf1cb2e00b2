"""The decoder: one token more for every slot, in one pass of static shapes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine.beams import Beams
from arno_workers.engine.caches import Room, SlotCaches
from arno_workers.engine.functions import Extent, Functions, StepAttention
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.largest import BLOCK
from arno_workers.engine.linear import Fused, feed_forward_weights, norm_weights
from arno_workers.engine.plain import PLAIN
from arno_workers.engine.rules import ban_repeated_ngrams


class _Layer:
    """A BartDecoderLayer's weights, with the products that share an operand fused."""

    def __init__(self, layer: Any) -> None:
        own, cross = layer.self_attn, layer.encoder_attn
        self.own_in, self.own_out = Fused(own.q_proj, own.k_proj, own.v_proj), own.out_proj
        self.cross_in, self.cross_out = cross.q_proj, cross.out_proj
        self.own_norm, self.cross_norm = (
            norm_weights(layer.self_attn_layer_norm),
            norm_weights(layer.encoder_attn_layer_norm),
        )
        self.norm, self.feed_forward = norm_weights(layer.final_layer_norm), feed_forward_weights(layer)


class DecoderWeights:
    """A BartDecoder and the head, as transformers holds them; shared by the decoders of every number of beams."""

    def __init__(self, model: Any, functions: Functions = PLAIN) -> None:
        self.functions = functions
        decoder = model.model.language_model.decoder
        text = model.config.text_config
        self.embed_tokens, self.embed_positions = decoder.embed_tokens, decoder.embed_positions
        self.embed_norm = norm_weights(decoder.layernorm_embedding)
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
        return self.functions.add_norm(self.embed_tokens(known) + places[:, None], None, *self.embed_norm)


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

    @property
    def by_length(self) -> bool:
        """A step reads of each slot what is there, however far its extent reaches."""
        return self._weights.functions.by_length

    def begin(self, slots: Tensor, max_new_tokens: Tensor, keys: Tensor, values: Tensor) -> None:
        """Gives new requests their `slots`, (n,). keys, values: (L, n, H, prompt tokens, D) of the cross-attention.

        Those in the slot behind the last one are no requests: their batch was padded with them.
        """
        self.caches.fill(slots, keys, values)
        self.beams.begin(slots, max_new_tokens)
        for position, token in enumerate(self._rules.prefix[:-1]):
            self._say(slots, position, token, keys, values)

    def step(self, extent: Extent) -> None:
        """One token for every slot within the extent."""
        weights, functions = self._weights, self._weights.functions
        self.caches.make_room(extent.prompt_tokens, extent.tokens)
        said, position = self.beams.enter(extent.slots)
        x = weights.embed(said, position)
        attention = functions.attention(self.beams, self.caches, extent, position)
        for number, layer in enumerate(weights.layers):
            x = self._pass(number, layer, x, attention)
        logits = F.linear(x.flatten(0, 1), weights.head, weights.head_bias)
        best, candidates = functions.candidates(logits, self._ban_of(extent), self._rules.candidates)
        shape = (extent.slots, self._rules.num_beams, self._rules.candidates)
        self.beams.advance(extent.slots, extent.tokens, best.view(shape), candidates.view(shape))

    def _pass(self, number: int, layer: _Layer, x: Tensor, attention: StepAttention) -> Tensor:
        add_norm = self._weights.functions.add_norm
        x = add_norm(x, layer.own_out(attention.own(number, layer.own_in(x))), *layer.own_norm)
        x = add_norm(x, layer.cross_out(attention.cross(number, layer.cross_in(x))), *layer.cross_norm)
        return add_norm(x, self._weights.functions.feed_forward(x, *layer.feed_forward), *layer.norm)

    def _ban_of(self, extent: Extent) -> "_Ban | None":
        return _Ban(self.beams, extent, self._rules) if self._rules.no_repeat_ngram_size else None

    def _say(self, slots: Tensor, position: int, token: int, keys: Tensor, values: Tensor) -> None:
        """Takes in the token that every sequence begins with: once for all beams, and without asking what comes next.

        Nothing stands before it, so that its attention is its own value.
        """
        weights, functions = self._weights, self._weights.functions
        count, heads, width = slots.shape[0], weights.heads, weights.width
        x = weights.embed(slots.new_full((count, 1), token), torch.full_like(slots, position))
        for number, layer in enumerate(weights.layers):
            _, key, value = layer.own_in(x).view(count, 3, heads, width).unbind(1)
            self.caches.own_keys[number][slots, :, position, 0] = key
            self.caches.own_values[number][slots, :, position, 0] = value
            x = functions.add_norm(x, layer.own_out(value.flatten(1)[:, None]), *layer.own_norm)
            queries = layer.cross_in(x).view(count, 1, heads, width).transpose(1, 2)
            # No mask: all of the prompt counts, and fused attention refuses one of a single column.
            seen = F.scaled_dot_product_attention(queries, keys[number], values[number])
            x = functions.add_norm(x, layer.cross_out(seen.transpose(1, 2).flatten(2)), *layer.cross_norm)
            x = functions.add_norm(x, functions.feed_forward(x, *layer.feed_forward), *layer.norm)


class _Ban:
    """No n-gram twice: what this bans from the next token of every beam."""

    def __init__(self, beams: Beams, extent: Extent, rules: GenerationRules) -> None:
        self._beams, self._extent, self._rules = beams, extent, rules

    def __call__(self, scores: Tensor) -> None:
        slots = self._extent.slots
        sequences = self._beams.sequences(slots, self._extent.tokens).flatten(0, 1)
        lengths = self._beams.length[:slots, None].expand(-1, self._rules.num_beams).reshape(-1, 1)
        ban_repeated_ngrams(scores, sequences, lengths, self._rules.no_repeat_ngram_size)
