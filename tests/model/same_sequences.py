"""Sequences that are the same in every run, whatever else is tested in its process."""

from typing import Any

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider


class SameSequences(HypothesisProvider):
    def _maybe_draw_constant(self, *_: Any, **__: Any) -> None:
        """Hypothesis tries numbers that it finds in the modules that happen to be loaded: none of them here."""


BACKEND = "same-sequences"
AVAILABLE_PROVIDERS[BACKEND] = SameSequences
