"""Beam search over static slots: which beams go on, which are finished, and when a slot is done.

The same arithmetic as transformers' `GenerationMixin._beam_search`, for each slot by itself: there, the sequences of a
batch begin and end together; here, each has its own length. Sequences are never copied: every step records which token
and which parent each beam has, and the best sequence is read backwards at the end. `lineage` says for each beam which
row of the caches holds each of its tokens.
"""

from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

import torch
from torch import Tensor

from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.rules import force_last_token

IMPOSSIBLE = -1.0e9
"""What transformers adds to a score that must not win."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A slot's best sequence, without the start token. The `logprobs` of forced tokens are 0."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    forced: int
    """How many tokens nobody chose."""
    truncated: bool
    """It was ended by its limit, not by itself."""

    @property
    def is_sound(self) -> bool:
        """False when the model's arithmetic broke down: whatever it says then means nothing."""
        return not any(map(isnan, self.logprobs))


class _Continuations(NamedTuple):
    """The K best continuations of each slot, best first: (slots, K), of which W may be finished and W go on."""

    scores: Tensor
    row: Tensor
    token: Tensor
    logprob: Tensor
    ends: Tensor
    length: Tensor
    """(slots,) with the new token."""


class Beams:
    """The state of the search in every slot. S slots, W beams, T tokens of the longest sequence.

    There is one slot more, in which no step looks: for requests that are none, with which a batch is padded.
    """

    def __init__(self, rules: GenerationRules, slots: int, max_tokens: int, device: str) -> None:
        self.rules = rules
        width = rules.num_beams

        slots += 1

        def whole(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=torch.long, device=device)

        def real(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=torch.float32, device=device)

        def flag(*shape: int) -> Tensor:
            return torch.zeros(slots, *shape, dtype=torch.bool, device=device)

        # (S,): tokens so far and at most, start token included; a slot without a request is done.
        self.length, self.max_length = whole() + 1, whole() + 1
        self.done, self.can_improve = ~flag(), flag()
        # (S, W, T): by the row in which a token was chosen. One place to spare, for slots that are done and full.
        self.tokens, self.parents = whole(width, max_tokens + 1), whole(width, max_tokens + 1)
        self.logprobs = real(width, max_tokens + 1)
        # (S, W, T): by beam; the row of each of its tokens, -1 where there is none yet.
        self.lineage = whole(width, max_tokens + 1) - 1
        self.scores = real(width)
        # (S, W): finished sequences, best first. Each is its last token and the row that it goes on from.
        self.finished, self.finished_scores = flag(width), real(width)
        self.finished_length, self.finished_row, self.finished_token = whole(width), whole(width), whole(width)
        self.finished_logprob = real(width)

        self._row = torch.arange(width, device=device)
        self._is_best = torch.arange(rules.candidates, device=device) < width
        self._eos = torch.tensor(rules.eos_ids, device=device)
        self._first_score = torch.full((width,), IMPOSSIBLE, device=device)
        # Beams that begin alike must not choose alike: only the first one counts at the start.
        self._first_score[0] = 0.0

    def begin(self, slots: Tensor, max_new_tokens: Tensor) -> None:
        """Starts new sequences in `slots`, (n,), of at most `max_new_tokens`, (n,), each."""
        prefix = self.rules.prefix
        # With a number of the host in their place, assignments by index would wait for the device.
        self.length.index_fill_(0, slots, len(prefix))
        self.max_length.index_copy_(0, slots, max_new_tokens + 1)
        self.done.index_fill_(0, slots, False)
        self.can_improve.index_fill_(0, slots, True)
        self.lineage.index_fill_(0, slots, -1)
        for place, token in enumerate(prefix):
            self.tokens[..., place].index_fill_(0, slots, token)
            self.parents[slots, :, place] = self._row
        # The caches hold what comes before the last token once for all beams, in row 0.
        self.lineage[..., : len(prefix) - 1].index_fill_(0, slots, 0)
        self.scores[slots] = self._first_score
        self.finished.index_fill_(0, slots, False)
        self.finished_scores.index_fill_(0, slots, IMPOSSIBLE)

    def stop_all(self) -> None:
        self.done.fill_(True)

    def enter(self, slots: int) -> tuple[Tensor, Tensor]:
        """The tokens that the first `slots` slots go on from, (slots, W), and their position, (slots,)."""
        position = self.length[:slots] - 1
        place = position[:, None, None].expand(-1, self.rules.num_beams, 1)
        self.lineage[:slots].scatter_(2, place, self._row[:, None].expand_as(place))
        return self.tokens[:slots].gather(2, place).squeeze(2), position

    def sequences(self, slots: int, tokens: int) -> Tensor:
        """What each beam has said so far: (slots, W, tokens); what stands beyond `length` means nothing."""
        return self.tokens[:slots, :, :tokens].gather(1, self.lineage[:slots, :, :tokens].clamp(min=0))

    def advance(self, slots: int, tokens: int, logprobs: Tensor, candidates: Tensor) -> None:
        """One token more for the first `slots` slots, of which none holds more than `tokens`.

        logprobs and candidates: (slots, W, K), of each beam the K best next tokens, best first.
        """
        rules = self.rules
        length = self.length[:slots] + 1
        full = length >= self.max_length[:slots]
        if rules.forced_eos_id is not None:
            logprobs, candidates = force_last_token(logprobs, candidates, full, rules.forced_eos_id)
        scores, best = (self.scores[:slots, :, None] + logprobs).flatten(1).topk(rules.candidates)
        token = candidates.flatten(1).gather(1, best)
        best_of_all = _Continuations(
            scores=scores,
            row=best // rules.candidates,
            token=token,
            logprob=logprobs.flatten(1).gather(1, best),
            ends=(token[..., None] == self._eos).any(-1) | full[:, None],
            length=length,
        )
        live = ~self.done[:slots]
        self._finish(slots, live, best_of_all)
        self._go_on(slots, tokens, live, best_of_all)
        self._check(slots, live, best_of_all)

    def _finish(self, slots: int, live: Tensor, now: "_Continuations") -> None:
        """Keeps the W best of the sequences that were finished before and those that end now."""
        ended = now.ends & self._is_best
        closed = ~self.can_improve[:slots, None]
        if self.rules.stops_early is True:
            closed = closed | self.finished[:slots].all(1, keepdim=True)
        scores = now.scores / self._penalty(now.length) + closed * IMPOSSIBLE + ~ended * IMPOSSIBLE
        best = torch.cat((self.finished_scores[:slots], scores), 1).topk(self.rules.num_beams).indices
        for kept, new in (
            (self.finished_scores, scores),
            (self.finished, ended),
            (self.finished_length, now.length[:, None].expand_as(now.row)),
            (self.finished_row, now.row),
            (self.finished_token, now.token),
            (self.finished_logprob, now.logprob),
        ):
            old = kept[:slots]
            old.copy_(torch.where(live[:, None], torch.cat((old, new), 1).gather(1, best), old))

    def _go_on(self, slots: int, tokens: int, live: Tensor, now: "_Continuations") -> None:
        """The W best of the sequences that do not end become the beams of the next step."""
        scores = now.scores + now.ends * IMPOSSIBLE
        best = scores.topk(self.rules.num_beams).indices
        parent = torch.where(live[:, None], now.row.gather(1, best), self._row)
        # A slot that is done writes where nobody reads: behind its last token.
        place = (now.length - 1)[:, None, None].expand(-1, self.rules.num_beams, 1)
        self.tokens[:slots].scatter_(2, place, now.token.gather(1, best)[..., None])
        self.logprobs[:slots].scatter_(2, place, now.logprob.gather(1, best)[..., None])
        self.parents[:slots].scatter_(2, place, parent[..., None])
        lineage = self.lineage[:slots, :, :tokens]
        lineage.copy_(lineage.gather(1, parent[..., None].expand_as(lineage)))
        self.scores[:slots] = torch.where(live[:, None], scores.gather(1, best), self.scores[:slots])
        self.length[:slots] += live

    def _check(self, slots: int, live: Tensor, now: "_Continuations") -> None:
        """Whether a slot can still get better, and whether it is done."""
        rules, finished = self.rules, self.finished[:slots]
        farthest = rules.stops_early == "never" and rules.length_penalty > 0
        hope = self.scores[:slots, :1] / self._penalty((self.max_length if farthest else self.length)[:slots])
        worst = self.finished_scores[:slots].min(1, keepdim=True).values
        better = (hope > torch.where(finished, worst, IMPOSSIBLE)).any(1)
        can_improve = self.can_improve[:slots]
        can_improve.copy_(can_improve & (better | ~live))
        done = ~can_improve | now.ends.all(1)
        if rules.stops_early is True:
            done = done | finished.all(1)
        self.done[:slots] |= done

    def _penalty(self, length: Tensor) -> Tensor:
        """What scores of sequences of that length, start token included, are divided by: (slots, 1)."""
        return ((length - 1).double() ** self.rules.length_penalty).float()[:, None]

    def record(self, slots: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """All there is to know of the answers of slots that are done, (n,), none with more than `tokens`: whole numbers
        and real ones, a row for each, for `read` once they have come to the host."""
        facts = (self.finished_length, self.finished_row, self.finished_token)
        whole = torch.cat(
            (
                torch.stack([fact[slots, 0] for fact in facts], 1),
                self.max_length[slots, None],
                self.tokens[slots, :, :tokens].flatten(1),
                self.parents[slots, :, :tokens].flatten(1),
            ),
            1,
        )
        real = torch.cat((self.finished_logprob[slots, :1], self.logprobs[slots, :, :tokens].flatten(1)), 1)
        return whole, real

    def read(self, whole: Tensor, real: Tensor) -> list[Hypothesis]:
        """The answers in what `record` found, on the host."""
        tokens = (real.shape[1] - 1) // self.rules.num_beams
        return [self._read_back(*pair, tokens) for pair in zip(whole.tolist(), real.tolist(), strict=True)]

    def _read_back(self, whole: list[int], real: list[float], tokens: int) -> Hypothesis:
        """One slot's best sequence, from its end to its start; `whole` and `real` as `record` packs them."""
        length, row, token, limit = whole[:4]
        said, parents = whole[4 : 4 + self.rules.num_beams * tokens], whole[4 + self.rules.num_beams * tokens :]
        prefix = self.rules.prefix
        ids, logprobs = [token], [real[0]]
        for position in range(length - 2, len(prefix) - 1, -1):
            place = row * tokens + position
            ids.append(said[place])
            logprobs.append(real[1 + place])
            row = parents[place]
        ids.extend(reversed(prefix[1:]))
        logprobs.extend(0.0 for _ in prefix[1:])
        is_full, forces_end = length == limit, self.rules.forced_eos_id is not None
        return Hypothesis(
            ids=tuple(reversed(ids)),
            logprobs=tuple(reversed(logprobs)),
            forced=len(prefix) - 1 + (is_full and forces_end),
            truncated=is_full and (forces_end or token not in self.rules.eos_ids),
        )
