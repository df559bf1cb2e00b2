"""How the checkpoint wants its answers generated: read from its `generation_config`, or refused."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from arno_shared.checkpoint.generation import NOT_DONE
from arno_shared.errors import ModelUnusable
from arno_shared.messages import GenerationOptions
from arno_shared.results import Generation


@dataclass(frozen=True, slots=True)
class GenerationRules:
    """Beam search as transformers' `GenerationMixin._beam_search` does it; one beam is its greedy search."""

    num_beams: int
    early_stopping: bool | Literal["never"]
    length_penalty: float
    no_repeat_ngram_size: int
    start_id: int
    eos_ids: tuple[int, ...]
    forced_bos_id: int | None
    forced_eos_id: int | None
    max_new_tokens: int | None
    """The checkpoint's own limit, where it has one."""

    @classmethod
    def of(cls, config: Any) -> "GenerationRules":
        """Reads a transformers `GenerationConfig`. Raises ModelUnusable when it asks for something not done here."""
        for name, harmless in NOT_DONE.items():
            value = getattr(config, name, None)
            if value not in harmless:
                raise ModelUnusable(f"the model's generation_config sets {name}={value!r}, which is not supported")
        eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        if not isinstance(start, int) or not eos or None in eos:
            raise ModelUnusable("the model's generation_config must name one start token, and an end token")
        if config.max_new_tokens is not None and config.max_new_tokens < 2:
            raise ModelUnusable("the model's generation_config allows answers of one token, which cannot say anything")
        forced_eos = config.forced_eos_token_id
        if isinstance(forced_eos, list):
            if len(forced_eos) > 1:
                raise ModelUnusable("the model's generation_config forces one of several end tokens; one is supported")
            forced_eos = forced_eos[0] if forced_eos else None
        return cls(
            num_beams=config.num_beams or 1,
            early_stopping=config.early_stopping or False,
            length_penalty=1.0 if config.length_penalty is None else float(config.length_penalty),
            no_repeat_ngram_size=config.no_repeat_ngram_size or 0,
            start_id=start,
            eos_ids=tuple(eos),
            forced_bos_id=config.forced_bos_token_id,
            forced_eos_id=forced_eos,
            max_new_tokens=config.max_new_tokens,
        )

    def with_options(self, options: GenerationOptions) -> "GenerationRules":
        return self if options.num_beams is None else self.with_beams(options.num_beams)

    def with_beams(self, num_beams: int) -> "GenerationRules":
        return replace(self, num_beams=num_beams)

    @property
    def candidates(self) -> int:
        """Continuations that are looked at in each step: enough to go on with when all the best ones end."""
        return max(2, 1 + len(self.eos_ids)) * self.num_beams

    @property
    def stops_early(self) -> bool | Literal["never"]:
        """Greedy search ends with its first end token, whatever the configuration says of beams."""
        return True if self.num_beams == 1 else self.early_stopping

    @property
    def prefix(self) -> tuple[int, ...]:
        """What every sequence begins with, whatever the model thinks."""
        return (self.start_id,) if self.forced_bos_id is None else (self.start_id, self.forced_bos_id)

    def as_facts(self) -> Generation:
        return Generation(
            num_beams=self.num_beams,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
        )
