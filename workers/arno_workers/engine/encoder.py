"""The text encoder: a picture's features and a prompt in, keys and values for the decoder's cross-attention out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine.linear import Fused


class _Layer:
    def __init__(self, layer: Any) -> None:
        attention = layer.self_attn
        self.heads: int = attention.num_heads
        self.attention_in = Fused(attention.q_proj, attention.k_proj, attention.v_proj)
        self.attention_out = attention.out_proj
        self.attention_norm, self.norm = layer.self_attn_layer_norm, layer.final_layer_norm
        self.fc1, self.fc2, self.activation = layer.fc1, layer.fc2, layer.activation_fn

    def __call__(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        fused = self.attention_in(x).view(count, length, 3, self.heads, width // self.heads)
        queries, keys, values = fused.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(queries, keys, values)
        x = self.attention_norm(x + self.attention_out(seen.transpose(1, 2).flatten(2)))
        x = self.norm(x + self.fc2(self.activation(self.fc1(x))))
        if x.dtype == torch.float16:
            # BartEncoderLayer's own guard: half precision overflows here.
            largest = torch.finfo(x.dtype).max - 1000
            x = x.clamp(-largest, largest)
        return x


class TextEncoder:
    """A BartEncoder over prompts of one exact length: no padding, so that nobody's neighbours change an answer."""

    def __init__(self, model: Any) -> None:
        language = model.model.language_model
        encoder, decoder = language.encoder, language.decoder
        self._embed_tokens, self._embed_positions = model.get_input_embeddings(), encoder.embed_positions
        self._embed_norm = encoder.layernorm_embedding
        self._layers = [_Layer(layer) for layer in encoder.layers]
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
        x = self._embed_norm(x + places)
        for layer in self._layers:
            x = layer(x)
        heads = self._cross_heads
        fused = self._cross(x).view(count, length, self._cross_layers, 2, heads, width // heads)
        keys, values = fused.permute(3, 2, 0, 4, 1, 5).unbind(0)
        return keys, values
