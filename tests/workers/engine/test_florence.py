"""The replica answers what transformers' own processor and `model.generate` answer, however it is batched."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle, product
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from arno_shared.errors import ItemError, ModelUnusable
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.prompts import TASKS, Takes
from arno_shared.scenes import draw, make_scene
from arno_shared.settings import WorkerSettings
from arno_workers.engine import Answer, Answered, Ask
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import Located
from arno_workers.engine.decoder import Decoder
from arno_workers.engine.encoder import TextEncoder
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.loop import EngineLoop
from arno_workers.engine.regions import quantize
from arno_workers.engine.scheduler import Picture, Request
from arno_workers.engine.vision import VisionTower
from tests.workers.engine.conftest import fail_in_the_middle
from tests.workers.engine.odd_models import ODD_MODELS, TINY, Expected, OddModel, Reference, save, with_generation

LIMIT = 48
CLOSE = 1e-4
"""Of log-probabilities."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _replica(folder: Path = TINY, **settings: Any) -> FlorenceReplica:
    # Few slots, so that they change hands.
    wanted = WorkerSettings(**{"model": folder.name, "slots": 12, **settings})
    return FlorenceReplica(load_checkpoint(Sources(Located(str(folder), folder, None))), wanted, "cpu")


@pytest.fixture(scope="module")
def replica() -> FlorenceReplica:
    return _replica()


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(TINY)


PROMPTS = [
    Prompt(
        task=task.token,
        text="a red circle" if task.takes is Takes.TEXT else None,
        region=(5, 10, 60, 70) if task.takes is Takes.REGION else None,
    )
    for task in TASKS.values()
]
WRITTEN = (
    "<s>a red circle</s>",
    f"<s>a red circle{'<loc_1><loc_22><loc_333><loc_999>' * 4}blue{'<loc_7>' * 8}</s>",
    f"<s>cat<poly>{'<loc_7><loc_8>' * 3}</poly></s>",
)
TAUGHT = [Prompt(task=task) for task in ("<CAPTION>", "<OD>", "<OCR>")]


@cache
def _scene(seed: int) -> Image.Image:
    return draw(make_scene(9_000 + seed))


@cache
def _picture(seed: int) -> Image.Image:
    """Of another size than the model's own, so that resizing is part of what is compared."""
    return _scene(seed).resize((90 + 37 * (seed % 19), 300 - 11 * (seed % 17)))


def _text(prompt: Prompt, picture: Image.Image) -> str:
    """As transformers takes it."""
    region = quantize(prompt.region, *picture.size) if prompt.region else ""
    return f"{prompt.task}{prompt.text or ''}{region}"


def _ask(
    replica: FlorenceReplica,
    picture: Image.Image,
    prompt: Prompt,
    num_beams: int | None = None,
    limit: int | None = LIMIT,
) -> Ask:
    return replica.ask(prompt, *picture.size, GenerationOptions(num_beams=num_beams, max_new_tokens=limit))


def _pictures(replica: FlorenceReplica, work: Sequence[tuple[Image.Image, Sequence[Ask]]]) -> list[Picture]:
    pictures = []
    for image, asks in work:
        picture = Picture(replica.prepare(image), Lane.BULK)
        picture.requests = [
            Request(picture, replica.prompt_ids(ask.sentence), ask.num_beams, ask.max_new_tokens) for ask in asks
        ]
        pictures.append(picture)
    return pictures


def _answers(replica: FlorenceReplica, work: Sequence[tuple[Image.Image, Sequence[Ask]]]) -> list[list[Answer]]:
    pictures = _pictures(replica, work)
    replica.answer_all(pictures)
    return [[request.answer for request in picture.requests] for picture in pictures]


def _check(answer: Answer, expected: Expected) -> None:
    assert answer.ids == expected.ids
    assert answer.forced == expected.forced
    assert answer.logprobs == pytest.approx(expected.logprobs, abs=CLOSE)
    assert answer.score == pytest.approx(expected.score, abs=CLOSE)


Key = tuple[int, str, int]


@pytest.fixture(scope="module")
def seeds(request: pytest.FixtureRequest) -> range:
    """Of the pictures that every task is asked about."""
    return range(24 if request.config.getoption("--long") else 12)


@pytest.fixture(scope="module")
def expected(reference: Reference, seeds: range) -> Callable[[int], dict[Key, Expected]]:
    """By picture, task and beams: what transformers answers to every prompt for each picture."""

    @cache
    def answers(num_beams: int) -> dict[Key, Expected]:
        pictures, found = [_picture(seed) for seed in seeds], {}
        for prompt in PROMPTS:
            texts = [_text(prompt, picture) for picture in pictures]
            answered = reference.answers(pictures, texts, num_beams=num_beams, max_new_tokens=LIMIT)
            for seed, answer in enumerate(answered):
                found[seed, prompt.task, num_beams] = answer
        return found

    return answers


@pytest.mark.parametrize("num_beams", [1, 3, 5])
def test_every_task_answers_what_model_generate_answers(
    replica: FlorenceReplica, expected: Callable[[int], dict[Key, Expected]], seeds: range, num_beams: int
) -> None:
    pictures = [_picture(seed) for seed in seeds]
    work = [(picture, [_ask(replica, picture, prompt, num_beams) for prompt in PROMPTS]) for picture in pictures]
    for seed, answers in enumerate(_answers(replica, work)):
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            _check(answer, expected(num_beams)[seed, prompt.task, num_beams])


@pytest.mark.parametrize(
    ("num_beams", "count"),
    [(None, 30), (1, 30), (5, 30), *(pytest.param(beams, 200, marks=pytest.mark.long) for beams in (None, 1, 5))],
)
def test_what_the_model_was_taught_it_answers_as_model_generate(
    replica: FlorenceReplica, reference: Reference, num_beams: int | None, count: int
) -> None:
    """`num_beams` None: the checkpoint's own."""
    scenes = [_scene(100 + seed) for seed in range(count)]
    work = [(scene, [_ask(replica, scene, prompt, num_beams) for prompt in TAUGHT]) for scene in scenes]
    found = _answers(replica, work)
    options = {} if num_beams is None else {"num_beams": num_beams}
    for column, prompt in enumerate(TAUGHT):
        for first in range(0, count, 20):
            some = scenes[first : first + 20]
            answers = reference.answers(some, [_text(prompt, scene) for scene in some], max_new_tokens=LIMIT, **options)
            for n, answer in enumerate(answers):
                _check(found[first + n][column], answer)


@pytest.mark.parametrize(
    ("slots", "vision_images"), [(1, 1), (2, 3), (3, 16), (7, 1), (7, 3), (7, 16), (64, 1), (64, 3), (64, 16)]
)
def test_neither_batches_nor_order_nor_neighbours_change_an_answer(
    expected: Callable[[int], dict[Key, Expected]], seeds: range, slots: int, vision_images: int
) -> None:
    """Pictures in a random order, each with prompts of its own, and with one, three and five beams at a time."""
    replica, random = _replica(slots=slots, max_batch_images=vision_images), Random(slots * vision_images)
    work, keys = [], []
    for seed in random.sample(seeds, len(seeds) // (3 if slots < 3 else 1)):
        prompts = random.sample(PROMPTS, random.randint(1, 6))
        beams = [random.choice((1, 3, 5)) for _ in prompts]
        asks = [_ask(replica, _picture(seed), prompt, width) for prompt, width in zip(prompts, beams, strict=True)]
        work.append((_picture(seed), asks))
        keys.append([(seed, prompt.task, width) for prompt, width in zip(prompts, beams, strict=True)])
    assert replica.limits.vision_images == vision_images
    for answers, asked in zip(_answers(replica, work), keys, strict=True):
        for answer, key in zip(answers, asked, strict=True):
            _check(answer, expected(key[2])[key])


def _spread(seed: int) -> list[dict[str, Any]]:
    """Some of all combinations, such that every pair of values occurs."""
    combinations = [
        {"early_stopping": early, "length_penalty": penalty, "no_repeat_ngram_size": ngram}
        for early, penalty, ngram in product((True, False, "never"), (1.0, 0.6, 2.0, -0.5), (0, 2, 3))
    ]
    random, chosen, pairs = Random(seed), [], set()
    random.shuffle(combinations)
    for combination in combinations:
        items = list(combination.items())
        new = {(one, other) for one in items for other in items} - pairs
        if new:
            chosen.append(combination)
            pairs |= new
    return chosen


@pytest.mark.parametrize("rules", _spread(5), ids=lambda rules: " ".join(map(str, rules.values())))
def test_the_checkpoints_own_settings_are_followed(rules: dict[str, Any], tmp_path: Path, seeds: range) -> None:
    """With limits that cut answers off, and such that do not, side by side."""
    folder = with_generation(TINY, tmp_path / "model", **rules)
    replica, reference = _replica(folder, slots=5), Reference(folder)
    pictures = [_picture(24 + seed) for seed in seeds[::4]]
    kinds = [
        (PROMPTS[place % len(PROMPTS)], num_beams, limit)
        for place, (num_beams, limit) in enumerate([(3, 2), (5, 3), (3, 5), (5, LIMIT), (3, LIMIT), (1, LIMIT)])
    ]
    work = [(picture, [_ask(replica, picture, *kind) for kind in kinds]) for picture in pictures]
    found = _answers(replica, work)
    for column, (prompt, num_beams, limit) in enumerate(kinds):
        texts = [_text(prompt, picture) for picture in pictures]
        answers = reference.answers(pictures, texts, num_beams=num_beams, max_new_tokens=limit)
        for row, answer in zip(found, answers, strict=True):
            _check(row[column], answer)
            assert len(answer.ids) <= limit


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[OddModel], Path]:
    return cache(lambda odd: save(odd, tmp_path_factory.mktemp("odd")))


def _noise(count: int, first: int = 0) -> list[Image.Image]:
    """Random models see the same in every scene, but not in this."""
    random = np.random.default_rng(first)
    return [
        Image.fromarray(random.integers(0, 256, (30 + 9 * n, 80 - 7 * n, 3), np.uint8)).resize((60, 50))
        for n in range(count)
    ]


@pytest.mark.parametrize("changes", [{}, {"max_new_tokens": 9}], ids=["limits of the job", "a limit of its own"])
@pytest.mark.parametrize("odd", ODD_MODELS, ids=str)
def test_odd_models_answer_what_model_generate_answers(
    odd: OddModel, changes: dict[str, Any], odd_folder: Callable[[OddModel], Path], tmp_path: Path
) -> None:
    """Nonsense, most of which runs into the limit."""
    folder = with_generation(odd_folder(odd), tmp_path / "model", **changes)
    replica, reference = _replica(folder, slots=4, max_batch_images=3), Reference(folder)
    pictures = _noise(5)
    limits = [2, 3, 5, 30, 48] if not changes else [None, None, 4, None, 48]
    kinds = list(zip(PROMPTS[::3], (None, 1, 3, 5, None), limits, strict=True))
    found = _answers(replica, [(picture, [_ask(replica, picture, *kind) for kind in kinds]) for picture in pictures])
    own_limit = changes.get("max_new_tokens", LIMIT)
    for column, (prompt, num_beams, limit) in enumerate(kinds):
        options = {"num_beams": num_beams} if num_beams else {}
        if limit is not None:
            options["max_new_tokens"] = min(limit, own_limit)
        answers = reference.answers(pictures, [_text(prompt, picture) for picture in pictures], **options)
        for row, answer in zip(found, answers, strict=True):
            _check(row[column], answer)
    assert len({answers[3].ids for answers in found}) > 1
    assert max(len(answer.ids) for answers in found for answer in answers) == own_limit


@pytest.mark.parametrize("odd", ODD_MODELS, ids=str)
def test_answers_grow_as_long_as_the_decoder_allows(odd: OddModel, odd_folder: Callable[[OddModel], Path]) -> None:
    """Beside others that come and go: whatever room there was at first."""
    replica, reference = _replica(odd_folder(odd), slots=3), Reference(odd_folder(odd))
    pictures, prompt = _noise(6), Prompt(task="<OD>")
    limits = [4000, 4, 4000, 70, 5, 4000]
    asks = [_ask(replica, picture, prompt, limit=limit) for picture, limit in zip(pictures, limits, strict=True)]
    found = _answers(replica, [(picture, [ask]) for picture, ask in zip(pictures, asks, strict=True)])
    for picture, ask, (answer,) in zip(pictures, asks, found, strict=True):
        (wanted,) = reference.answers([picture], [prompt.task], max_new_tokens=ask.max_new_tokens)
        _check(answer, wanted)
    assert max(len(answer.ids) for (answer,) in found) == odd.text["max_position_embeddings"] - 2


def _in_turn(replica: FlorenceReplica, work: Sequence[tuple[Image.Image, Sequence[Ask]]]) -> list[Answered]:
    """Through the engine's own loop, submitted by three threads for both lanes."""
    engine = EngineLoop(lambda: replica, 4, lambda: pytest.fail("the replica is not broken"))
    outcomes: dict[int, Answered | ItemError] = {}
    all_there = Event()

    def deliver_to(place: int) -> Callable[[Answered | ItemError], None]:
        def deliver(outcome: Answered | ItemError) -> None:
            outcomes[place] = outcome
            if len(outcomes) == len(work):
                all_there.set()

        return deliver

    def submit(places: range) -> None:
        for place, lane in zip(places, cycle(Lane), strict=False):
            image, asks = work[place]
            engine.submit(engine.prepare(image), asks, lane, deliver_to(place))

    threads = [Thread(target=submit, args=(range(first, len(work), 3),)) for first in range(3)]
    for thread in threads:
        thread.start()
    assert all_there.wait(60)
    for thread in threads:
        thread.join(30)
    engine.close()
    found = [outcomes[place] for place in range(len(work))]
    assert all(isinstance(outcome, Answered) for outcome in found)
    return found  # type: ignore[return-value]


def test_the_engine_gives_every_caller_the_answers_to_its_own_asks(
    replica: FlorenceReplica, expected: Callable[[int], dict[Key, Expected]], seeds: range
) -> None:
    prompts = [PROMPTS[place] for place in (0, 3, 8)]
    kinds = list(zip(prompts, (3, 1, 5), strict=True))
    work = [(_picture(seed), [_ask(replica, _picture(seed), *kind) for kind in kinds]) for seed in seeds]
    for seed, answered in enumerate(_in_turn(replica, work)):
        assert answered.wait_ms >= 0
        assert answered.model_ms > 0
        for (prompt, num_beams), answer in zip(kinds, answered.answers, strict=True):
            _check(answer, expected(num_beams)[seed, prompt.task, num_beams])


def test_a_score_is_the_mean_over_the_tokens_that_the_model_chose(
    replica: FlorenceReplica, reference: Reference
) -> None:
    """By transformers' own transition scores, in which forced tokens cost nothing."""
    picture, prompt = _picture(3), Prompt(task="<CAPTION>")
    ((answer,),) = _answers(replica, [(picture, [_ask(replica, picture, prompt)])])
    inputs = reference.processor(text=prompt.task, images=picture, return_tensors="pt")
    with torch.inference_mode():
        out = reference.model.generate(**inputs, max_new_tokens=LIMIT, return_dict_in_generate=True, output_scores=True)
        (scores,) = reference.model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    assert scores[0] == 0
    assert answer.forced == 1
    assert answer.score == pytest.approx(float(scores.sum()) / (len(scores) - 1), abs=CLOSE)
    assert answer.score < 0


def test_an_answer_of_forced_tokens_alone_has_no_score(replica: FlorenceReplica) -> None:
    picture = _picture(0)
    ((answer,),) = _answers(replica, [(picture, [_ask(replica, picture, Prompt(task="<OD>"), limit=2)])])
    assert answer.forced == len(answer.ids) == 2
    assert answer.score is None


def test_an_answer_that_reaches_its_limit_says_so(replica: FlorenceReplica) -> None:
    picture, prompt = _picture(0), Prompt(task="<OD>")
    asks = [_ask(replica, picture, prompt, limit=limit) for limit in (3, LIMIT)]
    ((cut, whole),) = _answers(replica, [(picture, asks)])
    assert cut.truncated
    assert len(cut.ids) == 3
    assert not whole.truncated
    assert len(whole.ids) < LIMIT


def test_raw_and_parsed_answers_are_those_of_transformers(
    replica: FlorenceReplica, reference: Reference, expected: Callable[[int], dict[Key, Expected]]
) -> None:
    pictures = [_picture(seed) for seed in range(8)]
    work = [(picture, [_ask(replica, picture, prompt) for prompt in PROMPTS]) for picture in pictures]
    for seed, (picture, answers) in enumerate(zip(pictures, _answers(replica, work), strict=True)):
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            parsed = replica.parse(prompt, answer, *picture.size)
            ids = expected(3)[seed, prompt.task, 3].ids
            (raw,) = reference.processor.batch_decode([ids], skip_special_tokens=False)
            assert parsed.raw == raw
            value = reference.processor.post_process_generation(text=raw, task=prompt.task, image_size=picture.size)
            assert parsed.value == value[prompt.task]
            assert not parsed.repetitive
            assert (parsed.confidences is None) == isinstance(parsed.value, str)
            assert len(parsed.confidences or ()) == len(_objects(parsed.value))


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.task)
def test_a_fine_tunes_own_prompt_is_asked_to_the_letter_and_read_as_the_task_of_its_kind(
    replica: FlorenceReplica, prompt: Prompt
) -> None:
    picture = _picture(0)
    asked = _ask(replica, picture, prompt)
    own = Prompt(raw=asked.sentence, parse=prompt.answer)
    assert _ask(replica, picture, own) == asked
    for raw in WRITTEN:
        answer = _spelled(replica, raw)
        assert replica.parse(own, answer, *picture.size) == replica.parse(prompt, answer, *picture.size)


@pytest.mark.parametrize("sentence", ["<OD>", " <CAPTION> {input} ", "<DocVQA>What is the date?\n", "<loc_5></s>"])
def test_a_fine_tunes_own_prompt_is_never_taken_for_a_task(replica: FlorenceReplica, sentence: str) -> None:
    picture = _picture(0)
    asked = _ask(replica, picture, Prompt(raw=sentence))
    assert asked.sentence == sentence
    (answers,) = _answers(replica, [(picture, [asked])])
    assert answers[0].ids


def _objects(value: Any) -> list[Any]:
    return [] if isinstance(value, str) else [each for key in value if "labels" in key for each in value[key]]


def _spelled(replica: FlorenceReplica, raw: str) -> Answer:
    ids = tuple(replica._processor.tokenizer(raw, add_special_tokens=False).input_ids)
    return Answer(ids, (-0.5,) * len(ids), forced=0, truncated=False)


def test_boxes_are_parsed_in_pixels_of_the_picture(replica: FlorenceReplica, reference: Reference) -> None:
    raw = "<s>red circle<loc_100><loc_200><loc_300><loc_400></s>"
    parsed = replica.parse(Prompt(task="<OD>"), _spelled(replica, raw), 640, 480)
    assert parsed.raw == raw
    value = reference.processor.post_process_generation(text=raw, task="<OD>", image_size=(640, 480))
    assert parsed.value == value["<OD>"]
    assert parsed.value["labels"] == ["red circle"]
    assert parsed.confidences == (pytest.approx(float(np.exp(-0.5))),)


def test_an_answer_in_a_loop_is_said_to_be_one(replica: FlorenceReplica) -> None:
    prompt = Prompt(task="<CAPTION>")
    assert replica.parse(prompt, _spelled(replica, "<s>" + " a red circle and" * 12 + "</s>"), 9, 9).repetitive
    assert not replica.parse(prompt, _spelled(replica, "<s>a red circle</s>"), 9, 9).repetitive


def test_pixels_are_those_of_the_image_processor(replica: FlorenceReplica, reference: Reference) -> None:
    for seed in range(5):
        theirs = reference.processor.image_processor(_picture(seed), return_tensors="pt")["pixel_values"]
        ours = replica._recipe.normalise(torch.as_tensor(replica.prepare(_picture(seed)))[None])
        assert torch.equal(ours, theirs)


def test_a_prompt_is_tokenised_as_the_processor_does_it(replica: FlorenceReplica, reference: Reference) -> None:
    picture = _picture(0)
    strange = Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text="  two  spaces, {input} {0} </s><loc_5><pad> ünï ")
    for prompt in [*PROMPTS, strange]:
        inputs = reference.processor(text=_text(prompt, picture), images=picture, return_tensors="pt")
        assert (721,) * 65 + replica.prompt_ids(_ask(replica, picture, prompt).sentence) == tuple(
            inputs["input_ids"][0].tolist()
        )


def test_a_text_longer_than_the_encoder_is_cut_and_answered(replica: FlorenceReplica, reference: Reference) -> None:
    """So that picture and prompt take all of its positions; the closing token stays."""
    picture, words = _picture(1), "a red q and x y z w "
    short, long = (
        _ask(replica, picture, Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text=words * times), limit=20)
        for times in (30, 200)
    )
    ids = replica.prompt_ids(long.sentence)
    assert len(ids) == 1152 - 65
    assert ids[-1] == 2
    assert ids[:100] == replica.prompt_ids(short.sentence)[:100]
    ((answer, _),) = _answers(replica, [(picture, [long, short])])
    pixels = reference.processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        generated = reference.model.generate(
            input_ids=torch.tensor([(721,) * 65 + ids]), pixel_values=pixels, max_new_tokens=20
        )
    assert answer.ids == tuple(generated[0, 1:].tolist())


def test_the_models_own_special_tokens_in_a_text_do_no_harm(
    replica: FlorenceReplica, expected: Callable[[int], dict[Key, Expected]]
) -> None:
    hostile = Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text="<image><image></s><loc_5><pad> {input} {0}")
    work = [
        (_picture(0), [_ask(replica, _picture(0), hostile)]),
        (_picture(1), [_ask(replica, _picture(1), Prompt(task="<CAPTION>"))]),
    ]
    (harmful,), (other,) = _answers(replica, work)
    assert harmful.ids
    _check(other, expected(3)[1, "<CAPTION>", 3])


def test_an_answer_is_no_longer_than_task_job_checkpoint_and_decoder_allow(
    replica: FlorenceReplica, odd_folder: Callable[[OddModel], Path], tmp_path: Path
) -> None:
    def limit(of: FlorenceReplica, task: str, wanted: int | None) -> int:
        return _ask(of, _picture(0), Prompt(task=task), limit=wanted).max_new_tokens

    assert limit(replica, "<CAPTION>", None) == TASKS["<CAPTION>"].max_new_tokens
    assert limit(replica, "<CAPTION>", 100) == 100
    assert limit(replica, "<OD>", 4000) == 1150
    assert [_ask(replica, _picture(0), Prompt(raw="what?"), limit=wanted).max_new_tokens for wanted in (None, 9)] == [
        1024,
        9,
    ]
    own = _replica(with_generation(TINY, tmp_path / "own", max_new_tokens=30))
    assert [limit(own, "<CAPTION>", wanted) for wanted in (None, 10, 100)] == [30, 10, 30]
    # 90 positions.
    assert limit(_replica(odd_folder(ODD_MODELS[0])), "<OD>", None) == 88


def test_the_checkpoints_beams_are_used_where_a_job_asks_for_none(replica: FlorenceReplica) -> None:
    picture, prompt = _picture(0), Prompt(task="<OD>")
    assert [_ask(replica, picture, prompt, beams).num_beams for beams in (None, 1, 5)] == [3, 1, 5]
    facts = [replica.generation(GenerationOptions(num_beams=beams)) for beams in (None, 5)]
    assert [fact and fact.num_beams for fact in facts] == [3, 5]
    assert [fact and fact.no_repeat_ngram_size for fact in facts] == [3, 3]


def test_a_picture_is_looked_at_once_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many prompts it has, and although they do not all find a slot at once."""
    replica = _replica(slots=4, max_batch_images=3)
    tower, counts = replica._vision, []

    def watched(pixels: torch.Tensor) -> torch.Tensor:
        counts.append(len(pixels))
        return tower(pixels)

    monkeypatch.setattr(replica, "_vision", watched)
    work = [(_picture(n), [_ask(replica, _picture(n), prompt, limit=4) for prompt in PROMPTS]) for n in range(7)]
    pictures = _pictures(replica, work)
    replica.answer_all(pictures)
    assert sum(counts) == 7
    assert max(counts) <= 3
    assert all(picture.features is None for picture in pictures)
    assert all(request.answer for picture in pictures for request in picture.requests)


def test_after_a_failure_and_a_reset_answers_are_what_they_were(
    replica: FlorenceReplica, expected: Callable[[int], dict[Key, Expected]]
) -> None:
    """Slots that were in the middle of an answer end nobody else's."""
    work = [(_picture(n), [_ask(replica, _picture(n), prompt, 3) for prompt in PROMPTS]) for n in range(4)]
    fail_in_the_middle(replica, _pictures(replica, work))
    for n, answers in enumerate(_answers(replica, work)):
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            _check(answer, expected(3)[n, prompt.task, 3])


def test_the_row_says_which_weights_answered(replica: FlorenceReplica) -> None:
    assert replica.model.id == str(TINY)
    assert replica.model.revision.startswith("sha256:")
    assert replica.model.dtype == "float32"
    assert replica.provenance == (
        "transformers' own layout, float32, head tied; 3 beams, no 3-gram twice, from generation_config.json"
    )


def test_jpegs_may_be_scaled_while_they_are_decoded_only_where_that_is_asked_for(replica: FlorenceReplica) -> None:
    assert replica.scaled_to is None
    assert _replica(pixels="fast").scaled_to == (128, 128)


@pytest.mark.parametrize("files", [("config.json", "model.safetensors"), ("config.json",), ()], ids=str)
def test_a_model_that_cannot_be_loaded_says_which(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ModelUnusable, match=f"^{tmp_path}: "):
        _replica(tmp_path)


def test_settings_that_are_not_followed_are_refused(tmp_path: Path) -> None:
    folder = with_generation(TINY, tmp_path / "model", repetition_penalty=1.2)
    with pytest.raises(ModelUnusable, match="repetition_penalty"):
        _replica(folder)


@pytest.mark.parametrize("stage", [VisionTower, TextEncoder, Decoder], ids=lambda stage: stage.__name__)
def test_warm_up_finds_a_model_that_does_not_answer(stage: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no kernel image is available")

    replica = _replica()
    replica.warm_up()
    monkeypatch.setattr(stage, "step" if stage is Decoder else "__call__", broken)
    with pytest.raises(ModelUnusable, match="no kernel image"):
        replica.warm_up()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_answers_too(dtype: str) -> None:
    replica = _replica(dtype=dtype)
    assert replica.model.dtype == dtype
    replica.warm_up()
    work = [(_picture(n), [_ask(replica, _picture(n), prompt) for prompt in TAUGHT]) for n in range(4)]
    for answers in _answers(replica, work):
        assert all(answer.ids[0] == 0 and answer.ids[-1] == 2 for answer in answers)
        assert all(answer.score is not None and -3 < answer.score <= 0 for answer in answers)


def test_a_picture_of_which_the_model_makes_no_numbers_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those beside it nor those who get its slots afterwards notice."""
    replica = _replica(slots=4)
    see = replica._see

    def see_badly(pictures: Sequence[Picture]) -> None:
        see(pictures)
        for picture in pictures:
            if (picture.pixels == 7).all():
                picture.features = torch.full_like(picture.features, torch.nan)

    monkeypatch.setattr(replica, "_see", see_badly)
    bad = Image.new("RGB", (replica._recipe.width, replica._recipe.height), (7, 7, 7))
    prompts = [Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text="a red circle and a star"), Prompt(task="<OCR>")]
    long, short = ([_ask(replica, bad, prompt)] for prompt in prompts)

    def said(work: Sequence[tuple[Image.Image, Sequence[Ask]]]) -> list[Any]:
        return [answer and answer.ids for (answer,) in _answers(replica, work)]

    good = [(_picture(0), long), (_picture(1), short), (_picture(2), long), (_picture(3), short)]
    alone = [said([one])[0] for one in good]
    # Its slot stands empty while the others go on.
    assert said([good[0], (bad, long), good[1]]) == [alone[0], None, alone[1]]
    # Somebody with a shorter prompt stands where it stood, beside others with longer ones.
    assert said([good[0], (bad, long), (bad, long), (bad, long), *good[1:]]) == [alone[0], None, None, None, *alone[1:]]
    assert said(good) == alone


def test_an_answer_that_ends_by_itself_at_its_limit_is_not_cut(tmp_path: Path) -> None:
    replica = _replica(with_generation(TINY, tmp_path / "model", forced_eos_token_id=None))
    picture, prompt = _picture(0), Prompt(task="<CAPTION>")
    ((whole,),) = _answers(replica, [(picture, [_ask(replica, picture, prompt, limit=LIMIT)])])
    asks = [_ask(replica, picture, prompt, limit=len(whole.ids) - less) for less in (0, 1)]
    ((same, cut),) = _answers(replica, [(picture, asks)])
    assert same.ids == whole.ids
    assert not same.truncated
    assert cut.truncated


def test_a_loop_may_end_with_any_of_several_end_tokens(tmp_path: Path) -> None:
    replica = _replica(with_generation(TINY, tmp_path / "model", eos_token_id=[2, 11]))
    looped = _spelled(replica, "<s>" + " a red circle and" * 12)
    ended = Answer((*looped.ids, 11), (*looped.logprobs, -0.5), 0, truncated=False)
    assert replica.parse(Prompt(task="<CAPTION>"), ended, 9, 9).repetitive


def test_a_checkpoint_whose_answers_say_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="max_new_tokens=1, which makes no sense"):
        _replica(with_generation(TINY, tmp_path / "model", max_new_tokens=1))
