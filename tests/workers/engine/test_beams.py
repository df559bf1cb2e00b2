"""Every slot is searched as transformers searches: with the same tokens, the same scores, whoever else stands there."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from arno_workers.engine.beams import Hypothesis
from arno_workers.engine.caches import Room
from arno_workers.engine.decoder import Decoder, DecoderWeights
from arno_workers.engine.encoder import TextEncoder
from arno_workers.engine.functions import Extent, Reach
from arno_workers.engine.generation import GenerationRules
from tests.workers.engine.odd_models import BABBLERS, Expected, OddModel, build, generate

CLOSE = 1e-4
IMAGE_TOKENS = 5
LIMITS = (2, 3, 5, 12, 24)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Given:
    """A picture's features, a prompt and a limit."""

    features: Tensor
    prompt_ids: Tensor
    max_new_tokens: int


def given(odd: OddModel, seed: int, max_new_tokens: int) -> Given:
    random = torch.Generator().manual_seed(seed)
    return Given(
        torch.randn(1, IMAGE_TOKENS, odd.text["d_model"], generator=random),
        torch.randint(odd.text["vocab_size"], (1, 1 + seed % 7), generator=random),
        max_new_tokens,
    )


@torch.inference_mode()
def expected(odd: OddModel, asked: Given, rules: Mapping[str, Any]) -> Expected:
    model = build(odd)
    embeds = torch.cat((asked.features, model.get_input_embeddings()(asked.prompt_ids)), 1)
    seen = model.model.language_model.encoder(inputs_embeds=embeds).last_hidden_state
    encoded = BaseModelOutput(last_hidden_state=seen)
    (answer,) = generate(model, encoder_outputs=encoded, max_new_tokens=asked.max_new_tokens, **rules)
    return answer


class Search:
    """Requests in a decoder's slots, stepped until all of them are done."""

    def __init__(self, odd: OddModel, slots: int, rules: Mapping[str, Any]) -> None:
        model = build(odd)
        self.rules = GenerationRules.of(GenerationConfig.from_dict({**model.generation_config.to_dict(), **rules}))
        self._encoder, weights = TextEncoder(model), DecoderWeights(model)
        # Hardly any room, so that the caches grow in the middle of answers.
        self.decoder = Decoder(weights, self.rules, slots, Room(8, 4), "cpu")
        self.beams = self.decoder.beams
        self._prompt_tokens: dict[int, int] = {}
        self.tokens: dict[int, int] = {}
        """Of each slot, how many its search took, the forced ones at the start included."""

    @torch.inference_mode()
    def begin(self, slot: int, asked: Given) -> None:
        keys, values = self._encoder(asked.features, asked.prompt_ids)
        self.decoder.begin(torch.tensor([slot]), torch.tensor([asked.max_new_tokens]), keys, values)
        self._prompt_tokens[slot] = keys.shape[3]
        self.tokens[slot] = len(self.rules.prefix) - 1

    @torch.inference_mode()
    def step(self) -> list[int]:
        """One token for everybody; the slots that are done then."""
        before = self.done
        standing = [slot for slot in self._prompt_tokens if slot not in before]
        longest = int(self.beams.length[standing].max())
        prompt_tokens = max(self._prompt_tokens[slot] for slot in standing)
        self.decoder.step(Extent(prompt_tokens, (Reach(max(standing) + 1, longest),)))
        for slot in standing:
            self.tokens[slot] += 1
        return [slot for slot in self.done if slot not in before]

    @property
    def done(self) -> list[int]:
        return [slot for slot in self._prompt_tokens if self.beams.done[slot]]

    def finish(self) -> None:
        while len(self.done) < len(self._prompt_tokens):
            self.step()

    def answers(self, slots: list[int]) -> list[Hypothesis]:
        longest = int(self.beams.finished_length[slots, 0].max())
        return self.beams.read(*self.beams.record(torch.tensor(slots), longest))

    def answer(self, slot: int) -> tuple[Hypothesis, float]:
        """With the score of the whole sequence."""
        (hypothesis,) = self.answers([slot])
        return hypothesis, float(self.beams.finished_scores[slot, 0])


def check(found: tuple[Hypothesis, float], answer: Expected, greedy: bool = False) -> None:
    hypothesis, score = found
    assert hypothesis.ids == answer.ids
    assert hypothesis.forced == answer.forced
    assert hypothesis.logprobs == pytest.approx(answer.logprobs, abs=CLOSE)
    if not greedy:
        assert score == pytest.approx(answer.sequence_score, abs=CLOSE, rel=CLOSE)


def _random_rules(seed: int) -> dict[str, Any]:
    random = Random(seed)
    return {
        "num_beams": random.choice([1, 2, 3, 3, 5, 7]),
        "early_stopping": random.choice([True, False, "never"]),
        "length_penalty": random.choice([1.0, 0.6, 2.0, -0.5, 0.0]),
        "no_repeat_ngram_size": random.choice([0, 1, 2, 3]),
        "forced_bos_token_id": random.choice([None, 0, 7]),
        "forced_eos_token_id": random.choice([None, 2, 9]),
    }


@pytest.mark.parametrize("seed", [*range(24), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(24, 48))])
def test_tokens_and_scores_are_those_of_transformers(seed: int) -> None:
    """Five requests at a time, of different limits, with prompts of different lengths and rules of all kinds."""
    odd = BABBLERS[seed % len(BABBLERS)]
    rules = _random_rules(seed)
    asked = [given(odd, 100 * seed + n, limit) for n, limit in enumerate(Random(seed).sample(LIMITS, len(LIMITS)))]
    search = Search(odd, len(asked), rules)
    for slot, one in enumerate(asked):
        search.begin(slot, one)
    search.finish()
    for slot, one in enumerate(asked):
        answer = expected(odd, one, rules)
        check(search.answer(slot), answer, greedy=rules["num_beams"] == 1)
        assert search.tokens[slot] == answer.steps


@pytest.mark.parametrize("length_penalty", [1.0, 0.6, 2.0, 0.0, -0.5, -2.0])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_a_search_stops_when_that_of_transformers_stops(
    early_stopping: bool | str, length_penalty: float, request: pytest.FixtureRequest
) -> None:
    """With the same token: sooner or later, another answer would be the best now and then."""
    rules = {"num_beams": 3, "early_stopping": early_stopping, "length_penalty": length_penalty}
    # Where short answers are the best ones, it is rarely of use to go on when there are enough.
    rare = early_stopping == "never" and length_penalty == -0.5
    count = 20 if rare else 4 if request.config.getoption("--long") else 2
    for odd in BABBLERS:
        asked = [given(odd, 1000 + n, 24) for n in range(count)]
        search = Search(odd, len(asked), rules)
        for slot, one in enumerate(asked):
            search.begin(slot, one)
        search.finish()
        for slot, one in enumerate(asked):
            answer = expected(odd, one, rules)
            check(search.answer(slot), answer)
            assert search.tokens[slot] == answer.steps


PLAIN = {"num_beams": 3, "forced_bos_token_id": 0, "no_repeat_ngram_size": 3}


@pytest.mark.parametrize("odd", BABBLERS, ids=str)
def test_slots_that_end_at_different_times_leave_each_other_alone(odd: OddModel) -> None:
    """Those that are done stay what they are while others go on."""
    asked = [given(odd, n, limit) for n, limit in enumerate([24, 2, 18, 3, 24, 7, 24, 24])]
    search = Search(odd, 8, PLAIN)
    for slot, one in enumerate(asked):
        search.begin(slot, one)
    early, ended = {}, []
    while len(ended) < 8:
        for slot in search.step():
            early[slot] = search.answer(slot)
            ended.append(slot)
    assert ended != sorted(ended)
    assert len({len(hypothesis.ids) for hypothesis, _ in early.values()}) >= 3
    for slot, one in enumerate(asked):
        check(early[slot], expected(odd, one, PLAIN))
        assert search.answer(slot) == early[slot]


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("odd", BABBLERS, ids=str)
def test_a_slot_remembers_nothing_of_who_stood_there_before(odd: OddModel, num_beams: int) -> None:
    """A long prompt and a long answer first, then short ones, then long ones again."""
    rules = {**PLAIN, "num_beams": num_beams, "no_repeat_ngram_size": 2}
    search = Search(odd, 2, rules)
    for seed, limit in [(6, 24), (13, 24), (7, 3), (14, 5), (0, 24), (6, 24), (21, 2)]:
        for slot in range(2):
            one = given(odd, seed + 7 * slot, limit)
            search.begin(slot, one)
            search.finish()
            check(search.answer(slot), expected(odd, one, rules), greedy=num_beams == 1)


@pytest.mark.parametrize("odd", BABBLERS, ids=str)
def test_a_slot_of_eight_answers_alone(odd: OddModel) -> None:
    search = Search(odd, 8, PLAIN)
    for seed in range(3):
        one = given(odd, seed, 12)
        search.begin(5, one)
        search.finish()
        check(search.answer(5), expected(odd, one, PLAIN))
        assert search.beams.done.all()


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("odd", BABBLERS, ids=str)
def test_requests_come_and_go_in_any_order(odd: OddModel, num_beams: int) -> None:
    """As soon as a slot is free, the next one takes it, while the others are somewhere in the middle."""
    rules = {**PLAIN, "num_beams": num_beams, "early_stopping": True, "forced_eos_token_id": 2}
    asked = [given(odd, 50 + n, limit) for n, limit in zip(range(25), cycle(LIMITS))]
    search, standing, waiting = Search(odd, 4, rules), {}, list(enumerate(asked))
    answers = {}
    for slot in (3, 0, 2, 1):
        standing[slot], one = waiting.pop(0)
        search.begin(slot, one)
        search.step()
    while len(answers) < len(asked):
        for slot in [slot for slot in search.done if slot in standing]:
            answers[standing.pop(slot)] = search.answer(slot)
            if waiting:
                standing[slot], one = waiting.pop(0)
                search.begin(slot, one)
        if standing:
            search.step()
    for n, one in enumerate(asked):
        check(answers[n], expected(odd, one, rules), greedy=num_beams == 1)


@pytest.mark.parametrize("odd", BABBLERS, ids=str)
def test_all_answers_are_fetched_in_the_order_that_was_asked_for(odd: OddModel) -> None:
    asked = [given(odd, n, limit) for n, limit in enumerate([3, 24, 12, 2])]
    search = Search(odd, 4, PLAIN)
    for slot, one in enumerate(asked):
        search.begin(slot, one)
    search.finish()
    alone = [search.answer(slot)[0] for slot in range(4)]
    assert search.answers([2, 0, 3, 1]) == [alone[slot] for slot in (2, 0, 3, 1)]


def _endless(seed: int, max_new_tokens: int) -> tuple[OddModel, Given, dict[str, Any]]:
    odd = BABBLERS[2]
    rules = {"num_beams": 2, "eos_token_id": 150, "forced_bos_token_id": 0, "forced_eos_token_id": 2}
    return odd, given(odd, seed, max_new_tokens), rules


def test_an_answer_may_take_every_position_that_the_decoder_has() -> None:
    """As many as an ask may have, beside a slot that is done and full."""
    most = BABBLERS[2].text["max_position_embeddings"] - 2
    (odd, one, rules), (_, other, _) = _endless(0, most), _endless(1, most)
    search = Search(odd, 2, rules)
    search.begin(0, one)
    search.step()
    search.begin(1, other)
    search.finish()
    for slot, asked in enumerate((one, other)):
        answer = expected(odd, asked, rules)
        assert len(answer.ids) == most
        check(search.answer(slot), answer)


@pytest.mark.parametrize("limit", range(3, 24))
def test_a_slot_that_is_done_hinders_nobody_however_long_its_answer_is(limit: int) -> None:
    """Its neighbours are shorter than it is: room for what they need is not enough for it."""
    (odd, one, rules), (_, other, _) = _endless(2, limit), _endless(3, 20)
    search = Search(odd, 2, rules)
    search.begin(0, one)
    for _ in range(limit - 3):
        search.step()
    search.begin(1, other)
    search.finish()
    check(search.answer(0), expected(odd, one, rules))
    check(search.answer(1), expected(odd, other, rules))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_who_is_stopped_stays_stopped(num_beams: int) -> None:
    """And does not go on beside those who begin after it."""
    odd, one, rules = _endless(4, 30)
    search = Search(odd, 4, {**rules, "num_beams": num_beams})
    for slot in range(4):
        search.begin(slot, one)
    search.step()
    search.beams.stop_all()
    search.begin(3, one)
    lengths = search.beams.length.tolist()
    while 3 not in search.done:
        search.step()
        assert search.done[:3] == [0, 1, 2]
    assert search.beams.length.tolist()[:3] == lengths[:3]
    check(search.answer(3), expected(odd, one, {**rules, "num_beams": num_beams}), greedy=num_beams == 1)


def test_what_was_forced_is_nobodys_choice() -> None:
    """With a limit of two, both tokens are."""
    odd = BABBLERS[0]
    rules = {"num_beams": 3, "forced_bos_token_id": 0, "forced_eos_token_id": 2}
    search = Search(odd, 1, rules)
    search.begin(0, given(odd, 0, 2))
    assert search.step() == [0]
    hypothesis, _ = search.answer(0)
    assert hypothesis == Hypothesis(ids=(0, 2), logprobs=(0.0, 0.0), forced=2, truncated=True)


def test_the_best_answer_of_several_beams_is_not_the_greedy_one() -> None:
    """Else the tests above would not tell a search from none."""
    differ = 0
    for seed in range(12):
        odd = BABBLERS[seed % 3]
        one = given(odd, seed, 12)
        differ += expected(odd, one, {"num_beams": 4}).ids != expected(odd, one, {"num_beams": 1}).ids
    assert differ >= 3
