"""The replica answers what transformers' own processor and `model.generate` answer, however it is batched."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from arno_shared.errors import ModelUnusable
from arno_shared.messages import Prompt
from arno_shared.prompts import TASKS, Takes
from arno_shared.scenes import draw, make_scene
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_workers.engine import Answer, Ask
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.locate import BUNDLED, Located, locate
from arno_workers.engine.regions import quantize

TINY = BUNDLED / "arno-tiny"
LIMIT = 48


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def replica() -> FlorenceReplica:
    settings = WorkerSettings()
    return FlorenceReplica(locate(settings, ObjectStore()), settings, "cpu")


@pytest.fixture(scope="module")
def reference() -> tuple[Florence2Processor, Florence2ForConditionalGeneration]:
    model = Florence2ForConditionalGeneration.from_pretrained(TINY, dtype=torch.float32).eval()
    return Florence2Processor.from_pretrained(TINY), model


def _prompts() -> list[Prompt]:
    given = {
        Takes.NOTHING: {},
        Takes.TEXT: {"text": "a red circle"},
        Takes.REGION: {"region": (5, 10, 60, 70)},
    }
    return [Prompt(task=task.token, **given[task.takes]) for task in TASKS.values()]


def _pictures(count: int) -> list[Image.Image]:
    scenes = [draw(make_scene(9_000 + seed)) for seed in range(count)]
    # Other sizes than the model's own, so that resizing is part of what is compared.
    return [scene.resize((90 + 37 * n, 200 - 11 * n)) for n, scene in enumerate(scenes)]


def _as_transformers_writes_it(prompt: Prompt, size: tuple[int, int]) -> str:
    region = quantize(prompt.region, *size) if prompt.region else ""
    return f"{prompt.task}{prompt.text or ''}{region}"


@torch.inference_mode()
def _generate(reference, picture: Image.Image, prompt: Prompt) -> str:
    processor, model = reference
    text = _as_transformers_writes_it(prompt, picture.size)
    inputs = processor(text=text, images=picture, return_tensors="pt")
    model.generation_config.max_length = None
    generated = model.generate(**inputs, max_new_tokens=LIMIT)
    return processor.batch_decode(generated, skip_special_tokens=False)[0]


def _ask(replica: FlorenceReplica, prompt: Prompt, picture: Image.Image) -> Ask:
    return Ask(replica.ask(prompt, *picture.size).sentence, LIMIT)


def test_every_task_answers_what_model_generate_answers(replica, reference) -> None:
    prompts, pictures = _prompts(), _pictures(4)
    answers = replica.annotate(
        [replica.prepare(picture) for picture in pictures],
        [[_ask(replica, prompt, picture) for prompt in prompts] for picture in pictures],
    )
    for picture, given in zip(pictures, answers, strict=True):
        for prompt, answer in zip(prompts, given, strict=True):
            # The decoder's start token stands before what it generates.
            assert "</s>" + answer.raw == _generate(reference, picture, prompt), prompt


def test_neither_batch_nor_order_nor_neighbouring_prompts_change_an_answer(replica) -> None:
    prompts, pictures = _prompts()[:8], _pictures(7)
    alone = {
        (n, prompt.task): replica.annotate([replica.prepare(picture)], [[_ask(replica, prompt, picture)]])[0][0]
        for n, picture in enumerate(pictures)
        for prompt in prompts
    }
    shuffled = random.Random(4)
    for _ in range(3):
        order = shuffled.sample(range(len(pictures)), len(pictures))
        wanted = [shuffled.sample(prompts, shuffled.randint(1, len(prompts))) for _ in order]
        answers = replica.annotate(
            [replica.prepare(pictures[n]) for n in order],
            [[_ask(replica, prompt, pictures[n]) for prompt in some] for n, some in zip(order, wanted, strict=True)],
        )
        for n, some, given in zip(order, wanted, answers, strict=True):
            assert [alone[n, prompt.task] for prompt in some] == list(given)


def test_pixels_are_those_of_the_image_processor(replica, reference) -> None:
    processor, _ = reference
    for picture in _pictures(5):
        expected = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(replica._recipe.to_device([replica.prepare(picture)]), expected, atol=1e-5, rtol=0)


def test_answers_are_parsed_as_transformers_parses_them(replica, reference) -> None:
    processor, _ = reference
    raw = "<s>red circle<loc_100><loc_200><loc_300><loc_400></s>"
    prompt = Prompt(task="<OD>")
    parsed = replica.parse(prompt, Answer(raw, 8, False), 640, 480)
    assert parsed == processor.post_process_generation(raw, task="<OD>", image_size=(640, 480))["<OD>"]
    assert parsed["labels"] == ["red circle"]


def test_an_answer_that_reaches_its_limit_says_so(replica) -> None:
    picture = _pictures(1)[0]
    sentence = replica.ask(Prompt(task="<OD>"), *picture.size).sentence
    cut, whole = replica.annotate([replica.prepare(picture)], [[Ask(sentence, 3), Ask(sentence, LIMIT)]])[0]
    assert cut.truncated
    assert cut.tokens == 3
    assert not whole.truncated
    assert whole.tokens < LIMIT


def test_a_text_longer_than_the_encoder_is_cut_and_answered(replica) -> None:
    picture = _pictures(1)[0]
    prompt = Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text="red circle " * 370)
    ((answer,),) = replica.annotate([replica.prepare(picture)], [[Ask(replica.ask(prompt, 90, 200).sentence, 4)]])
    assert answer.tokens > 0


def test_the_models_own_special_tokens_in_a_text_do_no_harm(replica) -> None:
    pictures = _pictures(2)
    hostile = Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text="<image><image></s><loc_5><pad> {input} {0}")
    asks = [[_ask(replica, hostile, pictures[0])], [_ask(replica, Prompt(task="<CAPTION>"), pictures[1])]]
    pixels = [replica.prepare(picture) for picture in pictures]
    together = replica.annotate(pixels, asks)
    assert together[1] == replica.annotate(pixels[1:], asks[1:])[0]


def test_the_row_says_which_weights_answered(replica) -> None:
    assert replica.model.id == "arno-tiny"
    assert replica.model.revision.startswith("sha256:")
    assert replica.model.dtype == "float32"
    assert replica.generation is not None
    assert (replica.generation.num_beams, replica.generation.no_repeat_ngram_size) == (3, 3)


def test_a_model_that_cannot_be_loaded_says_which(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        FlorenceReplica(Located(str(tmp_path), None), WorkerSettings(model=str(tmp_path)), "cpu")


def test_warm_up_finds_a_model_that_does_not_answer(replica, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(replica._model, "generate", broken)
    with pytest.raises(ModelUnusable, match="no kernel image"):
        replica.warm_up()


def test_bfloat16_answers_too() -> None:
    settings = WorkerSettings(dtype="bfloat16")
    replica = FlorenceReplica(locate(settings, ObjectStore()), settings, "cpu")
    ((answer,),) = replica.annotate([np.zeros((128, 128, 3), np.uint8)], [[Ask("What does the image describe?", 8)]])
    assert answer.tokens > 0
    assert replica.model.dtype == "bfloat16"
