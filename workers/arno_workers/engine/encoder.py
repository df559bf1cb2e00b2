"""The text encoder: a picture's features and a prompt in, keys and values for the decoder's cross-attention out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine.functions import Functions
from arno_workers.engine.linear import Fused, feed_forward_weights, norm_weights
from arno_workers.engine.plain import PLAIN


class _Layer:
    def __init__(self, layer: Any, functions: Functions) -> None:
        attention = layer.self_attn
        self._functions, self._heads = functions, attention.num_heads
        self._attention_in = Fused(attention.q_proj, attention.k_proj, attention.v_proj)
        self._attention_out = attention.out_proj
        self._attention_norm, self._norm = (
            norm_weights(layer.self_attn_layer_norm),
            norm_weights(layer.final_layer_norm),
        )
        self._feed_forward = feed_forward_weights(layer)

    def __call__(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        fused = self._attention_in(x).view(count, length, 3, self._heads, width // self._heads)
        queries, keys, values = fused.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(queries, keys, values)
        add_norm = self._functions.add_norm
        x = add_norm(x, self._attention_out(seen.transpose(1, 2).flatten(2)), *self._attention_norm)
        x = add_norm(x, self._functions.feed_forward(x, *self._feed_forward), *self._norm)
        if x.dtype == torch.float16:
            # BartEncoderLayer's own guard: half precision overflows here.
            largest = torch.finfo(x.dtype).max - 1000
            x = x.clamp(-largest, largest)
        return x


class TextEncoder:
    """A BartEncoder over prompts of one exact length: no padding, so that nobody's neighbours change an answer."""

    def __init__(self, model: Any, functions: Functions = PLAIN) -> None:
        language = model.model.language_model
        encoder, decoder = language.encoder, language.decoder
        self._embed_tokens, self._embed_positions = model.get_input_embeddings(), encoder.embed_positions
        self._embed_norm, self._functions = norm_weights(encoder.layernorm_embedding), functions
        self._layers = [_Layer(layer, functions) for layer in encoder.layers]
        # All of the decoder's layers look at the same picture: their keys and values are one matrix product.
        cross = [layer.encoder_attn for layer in decoder.layers]
        self._cross = Fused(*(linear for attention in cross for linear in (attention.k_proj, attention.v_proj)))
        self._cross_layers, self._cross_heads = len(cross), model.config.text_config.decoder_attention_heads

    def __call__(self, features: Tensor, prompt_ids: Tensor) -> tuple[Tensor, Tensor]:
        """features: (n, image tokens, width); prompt_ids: (n, prompt tokens) → keys and values, each
        (layers, n, heads, image + prompt tokens, head width)."""
        x = torch.cat((features, self._embed_tokens(prompt_ids)), 1)
        count, length, width = x.shape
        places = self._embed_positions.weight[self._embed_positions.offset :][:length]
        x = self._functions.add_norm(x + places, None, *self._embed_norm)
        for layer in self._layers:
            x = layer(x)
        heads = self._cross_heads
        fused = self._cross(x).view(count, length, self._cross_layers, 2, heads, width // heads)
        keys, values = fused.permute(3, 2, 0, 4, 1, 5).unbind(0)
        return keys, values
