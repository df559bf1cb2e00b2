"""Tokens are spelled as the tokenizer itself spells them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders
from transformers import Florence2Processor

from arno_shared.errors import ModelUnusable
from arno_workers.engine.checkpoint.locate import BUNDLED
from arno_workers.engine.detokenizer import Detokenizer, places_of, text_of


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return Florence2Processor.from_pretrained(BUNDLED / "arno-tiny").tokenizer


@pytest.fixture(scope="module")
def detokenizer(tokenizer: Any) -> Detokenizer:
    return Detokenizer(tokenizer)


@given(data=st.data())
def test_any_tokens_spell_what_the_tokenizer_says(
    tokenizer: Any, detokenizer: Detokenizer, data: st.DataObject
) -> None:
    # The first few hundred are single bytes, which make and break characters; beyond the last there are none.
    some = st.integers(0, 300) | st.integers(0, len(tokenizer) + 40)
    ids = data.draw(st.lists(some, max_size=100))
    assert text_of(detokenizer.pieces(ids)) == tokenizer.decode(ids, skip_special_tokens=False)


@given(st.text())
def test_any_text_is_spelled_by_its_tokens(text: str) -> None:
    written = text.encode(errors="replace")
    assert text_of([written[at : at + 1] for at in range(len(written))]) == written.decode()


@given(st.lists(st.binary(max_size=5) | st.text(max_size=5).map(lambda text: text.encode(errors="replace"))))
def test_pieces_stand_where_the_text_has_them(pieces: list[bytes]) -> None:
    starts, ends = places_of(pieces)
    assert len(starts) == len(ends) == len(pieces)
    assert sorted(starts) == starts
    assert sorted(ends) == ends
    assert all(start <= end <= len(text_of(pieces)) for start, end in zip(starts, ends, strict=True))
    for place, piece in enumerate(pieces):
        if piece and piece.isascii():
            assert text_of(pieces)[starts[place] : ends[place]] == piece.decode()


@pytest.mark.parametrize("change", ["decoder", "clean_up"])
def test_a_tokenizer_that_spells_in_another_way_is_refused(change: str) -> None:
    tokenizer: Any = Florence2Processor.from_pretrained(BUNDLED / "arno-tiny").tokenizer
    if change == "decoder":
        tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer.clean_up_tokenization_spaces = True
        tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    with pytest.raises(ModelUnusable, match="byte-level"):
        Detokenizer(tokenizer)
