"""The task message: every way to write it, and what is said about those that are wrong."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.errors import InvalidMessage
from arno_shared.messages import (
    MAX_BEAMS,
    MAX_CHUNK_IMAGES,
    MAX_CHUNKS,
    MAX_NEW_TOKENS,
    MAX_PROMPTS,
    Chunk,
    GenerationOptions,
    ImageRef,
    Output,
    Prompt,
    TaskMessage,
    parse_message,
    raw_message,
)
from arno_shared.prompts import TASKS, Answer, Takes

patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
"""Machines may be busy: how long an example takes says nothing."""

IMAGE = "s3://photos/a.jpg"
PREFIX = "s3://results/run-7/"
CAR = {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a red car"}
REGION = {"task": "<REGION_TO_CATEGORY>", "region": [10, 20, 200, 180]}
OWN = {"raw": "<DocVQA>What is the date?"}


def parsed(**fields: Any) -> TaskMessage:
    return parse_message([], {"images": [IMAGE], "prompts": ["<OD>"], **fields})


def refusal(args: list[Any] | None = None, **fields: Any) -> str:
    with pytest.raises(InvalidMessage) as refused:
        parse_message(args or [], fields)
    return str(refused.value)


def wrong(**fields: Any) -> str:
    """What is said of a message that is right but for these fields."""
    return refusal(**{"images": [IMAGE], "prompts": ["<OD>"], **fields})


# Shorthands


@pytest.mark.parametrize("images", [IMAGE, [IMAGE], {"uri": IMAGE}, [{"uri": IMAGE}], (IMAGE,)])
def test_images_may_be_a_string_a_list_or_an_object(images: Any) -> None:
    assert parsed(images=images).images == (ImageRef(uri=IMAGE),)


def test_a_list_of_images_may_mix_strings_and_objects() -> None:
    message = parsed(images=[IMAGE, {"uri": "https://x/b.png", "id": "b", "version_id": "v", "etag": "e"}])
    assert message.images == (ImageRef(uri=IMAGE), ImageRef(uri="https://x/b.png", id="b", version_id="v", etag="e"))


@pytest.mark.parametrize("prompts", ["<OD>", ["<OD>"], {"task": "<OD>"}, [{"task": "<OD>"}]])
def test_prompts_may_be_a_string_a_list_or_an_object(prompts: Any) -> None:
    assert parsed(prompts=prompts).prompts == (Prompt(task="<OD>"),)


@pytest.mark.parametrize("prompt", ["<CAPTION_TO_PHRASE_GROUNDING>a red car", CAR])
def test_a_prompt_may_carry_its_text_right_after_the_task(prompt: Any) -> None:
    assert parsed(prompts=prompt).prompts == (Prompt(**CAR),)


def test_a_prompt_carries_its_region_in_pixels() -> None:
    assert parsed(prompts=REGION).prompts[0].region == (10, 20, 200, 180)


@pytest.mark.parametrize("output", [PREFIX, PREFIX.rstrip("/"), {"prefix": PREFIX}])
def test_an_output_may_be_a_prefix_alone_with_or_without_its_slash(output: Any) -> None:
    assert parsed(output=output).output == Output(prefix=PREFIX, format="jsonl", inline=False)


def test_only_images_and_prompts_are_required() -> None:
    message = parsed()
    assert (message.output, message.job_id, message.index) == (None, None, None)
    assert (message.attempt, message.schema_version) == (1, 1)
    assert message.generation == GenerationOptions(num_beams=None, max_new_tokens=None)


@pytest.mark.parametrize(
    "generation",
    [{}, {"num_beams": 1}, {"num_beams": MAX_BEAMS, "max_new_tokens": MAX_NEW_TOKENS}, {"max_new_tokens": 2}],
)
def test_a_message_may_say_how_answers_are_generated(generation: dict[str, int]) -> None:
    assert parsed(generation=generation).generation == GenerationOptions(**generation)


# Arguments


def test_keywords_one_object_and_positions_mean_the_same() -> None:
    fields = {"images": [IMAGE], "prompts": ["<OD>"], "output": PREFIX}
    message = parse_message([], fields)
    assert parse_message([fields], {}) == message
    assert parse_message([[IMAGE], ["<OD>"], PREFIX], {}) == message
    assert parse_message([IMAGE, "<OD>"], {"output": PREFIX}) == message
    assert parse_message([IMAGE], {"prompts": "<OD>", "output": PREFIX}) == message


def test_one_object_that_is_an_image_is_an_image() -> None:
    assert parse_message([{"uri": IMAGE}], {"prompts": "<OD>"}).images == (ImageRef(uri=IMAGE),)


def test_one_object_may_be_completed_by_keywords() -> None:
    assert parse_message([{"images": IMAGE, "prompts": "<OD>"}], {"job_id": "run-7"}).job_id == "run-7"


def test_a_field_given_twice_is_refused_and_named() -> None:
    sentence = refusal([IMAGE, "<OD>"], images=[IMAGE])
    assert "images" in sentence
    assert "twice" in sentence


def test_a_fourth_position_is_refused() -> None:
    assert "got 4 arguments" in refusal([IMAGE, "<OD>", PREFIX, "run-7"])


# Refusals


@pytest.mark.parametrize("missing", ["images", "prompts"])
def test_a_message_without_a_required_field_is_refused_and_the_field_named(missing: str) -> None:
    fields = {"images": [IMAGE], "prompts": ["<OD>"]}
    del fields[missing]
    assert refusal(**fields).startswith(f"{missing}: ")


def test_an_empty_message_names_both_required_fields() -> None:
    sentence = refusal()
    assert "images: " in sentence
    assert "prompts: " in sentence


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("images", [], "images"),
        ("images", None, "images"),
        ("images", 7, "images"),
        ("images", [IMAGE] * (MAX_CHUNK_IMAGES + 1), "images"),
        ("images", [IMAGE, ""], "images.1.uri"),
        ("images", [7], "images.0"),
        ("images", ["s3://photos/" + "a" * 8192], "images.0.uri"),
        ("images", [{"id": "a"}], "images.0.uri"),
        ("images", [{"uri": IMAGE, "id": "a" * 1025}], "images.0.id"),
        ("images", [{"uri": IMAGE, "version_id": 3}], "images.0.version_id"),
        ("images", [{"uri": IMAGE, "etag": []}], "images.0.etag"),
        ("images", [{"uri": IMAGE, "url": IMAGE}], "images.0.url"),
        ("images", ["s3://photos/\ud800.jpg"], "images.0.uri"),
        ("prompts", [], "prompts"),
        ("prompts", ["<OD>"] * (MAX_PROMPTS + 1), "prompts"),
        ("prompts", ["<OD>", "<POEM>"], "prompts.1"),
        ("prompts", [{"text": "a"}], "prompts.0"),
        ("prompts", [{"task": "<OD>", "txt": "a"}], "prompts.0.txt"),
        ("prompts", [{**CAR, "text": "a" * 4097}], "prompts.0.text"),
        ("prompts", [{**REGION, "region": [1, 2, 3]}], "prompts.0.region.3"),
        ("prompts", [{**REGION, "region": [9, 2, 3, 4]}], "prompts.0.region"),
        ("prompts", [{**REGION, "region": [1, 2, 3, 2]}], "prompts.0.region"),
        ("prompts", [{**REGION, "region": [-1, 2, 3, 4]}], "prompts.0.region"),
        ("prompts", [{**REGION, "region": [1, 2, float("nan"), 4]}], "prompts.0.region"),
        ("prompts", [{**REGION, "region": [1, 2, float("inf"), 4]}], "prompts.0.region"),
        ("prompts", [{"raw": "a" * 4097}], "prompts.0.raw"),
        ("prompts", [{"raw": ["what?"]}], "prompts.0.raw"),
        ("prompts", [{"raw": "what \ud800?"}], "prompts.0.raw"),
        ("prompts", [{"raw": "what?", "parse": "pure_text"}], "prompts.0.parse"),
        ("prompts", [{"raw": "what?", "parser": "text"}], "prompts.0.parser"),
        ("output", {}, "output.prefix"),
        ("output", "results/run-7", "output.prefix"),
        ("output", "https://results/run-7/", "output.prefix"),
        ("output", "s3:///run-7/", "output.prefix"),
        ("output", {"prefix": PREFIX, "format": "csv"}, "output.format"),
        ("output", {"prefix": PREFIX, "inline": "perhaps"}, "output.inline"),
        ("output", {"prefix": PREFIX, "compress": True}, "output.compress"),
        ("generation", None, "generation"),
        ("generation", "greedy", "generation"),
        ("generation", {"num_beams": 0}, "generation.num_beams"),
        ("generation", {"num_beams": MAX_BEAMS + 1}, "generation.num_beams"),
        ("generation", {"num_beams": 1.5}, "generation.num_beams"),
        ("generation", {"num_beams": "many"}, "generation.num_beams"),
        ("generation", {"max_new_tokens": 1}, "generation.max_new_tokens"),
        ("generation", {"max_new_tokens": MAX_NEW_TOKENS + 1}, "generation.max_new_tokens"),
        ("generation", {"temperature": 1.0}, "generation.temperature"),
        ("job_id", "", "job_id"),
        ("job_id", "../run-7", "job_id"),
        ("job_id", "run/7", "job_id"),
        ("job_id", "a" * 129, "job_id"),
        ("job_id", 7, "job_id"),
        ("index", -1, "index"),
        ("index", MAX_CHUNKS, "index"),
        ("index", "twelve", "index"),
        ("attempt", 0, "attempt"),
        ("attempt", 1001, "attempt"),
        ("schema_version", "one", "schema_version"),
        ("schema_version", 0, "schema_version"),
        ("priority", 5, "priority"),
    ],
)
def test_a_wrong_field_is_named_with_its_place(field: str, value: Any, where: str) -> None:
    assert f"{where}: " in wrong(**{field: value})


@pytest.mark.parametrize("token", sorted(TASKS))
def test_a_prompt_with_what_it_does_not_take_is_refused_by_name(token: str) -> None:
    given_nothing = {"task": token}
    given_both = {"task": token, "text": "a car", "region": [1, 2, 3, 4]}
    for prompt in [given_both] if TASKS[token].takes is Takes.NOTHING else [given_both, given_nothing]:
        assert f"prompts.0: {token} takes " in wrong(prompts=[prompt])


@pytest.mark.parametrize("version", [3, 99, "3", 3.0])
def test_a_newer_schema_version_is_refused_however_it_is_written(version: Any) -> None:
    assert "schema_version" in wrong(schema_version=version)


def test_a_newer_message_is_told_to_upgrade_and_not_blamed_for_fields_that_are_new() -> None:
    sentence = wrong(schema_version=3, priority="high")
    assert "upgrade the worker" in sentence
    assert "priority" not in sentence


@pytest.mark.parametrize(
    "fields",
    [
        {"images": [{"uri": "https://host/a.jpg?sig=hunter2", "id": 7}]},
        {"images": [{"uri": "https://me:hunter2@host/a.jpg", "extra": "hunter2"}]},
        {"images": "hunter2" * 2000},
        {"output": "https://me:hunter2@results/?token=hunter2"},
        {"output": "HTTPS://me:hunter2@results/?token=hunter2"},
        {"output": {"prefix": PREFIX, "format": "hunter2"}},
        {"prompts": [{**CAR, "region": "hunter2"}]},
        {"job_id": "https://host/?sig=hunter2"},
        {"index": "hunter2"},
        {"schema_version": "hunter2"},
    ],
)
def test_a_refusal_does_not_echo_secrets(fields: dict[str, Any]) -> None:
    assert "hunter2" not in wrong(**fields)


def test_a_refusal_stays_short_however_much_is_wrong() -> None:
    assert len(wrong(images=[7] * 1000)) < 1000


def test_a_message_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parsed().attempt = 2  # type: ignore[misc]


# A fine-tune's own prompts


@pytest.mark.parametrize("sentence", ["<DocVQA>What is the date?", "<OD>", " {input}\n", "Où ? <CAPTION> <loc_7>"])
@pytest.mark.parametrize("kind", Answer)
def test_a_fine_tunes_own_prompt_is_kept_to_the_letter(sentence: str, kind: Answer) -> None:
    (prompt,) = parsed(prompts={"raw": sentence, "parse": kind.value}).prompts
    assert (prompt.raw, prompt.parse, prompt.answer) == (sentence, kind, kind)
    assert (prompt.task, prompt.text, prompt.region, prompt.max_new_tokens) == (None, None, None, 1024)
    assert prompt == Prompt(raw=sentence, parse=kind)


@pytest.mark.parametrize("said", [{}, {"parse": None}, {"task": None, "text": None, "region": None}])
def test_the_answer_to_a_fine_tunes_own_prompt_is_a_text_unless_it_is_said(said: dict[str, None]) -> None:
    assert parsed(prompts={"raw": "what?", **said}).prompts == (Prompt(raw="what?", parse=Answer.TEXT),)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ({"raw": "what?", "task": "<OD>"}, "leave out `task`, or `raw`"),
        ({"raw": "what?", "text": "a"}, "leave out `text`, or `raw`"),
        ({"raw": "what?", "text": "a", "region": [1, 2, 3, 4]}, "leave out `text`, `region`, or `raw`"),
        ({"raw": ""}, "`raw` is blank: write the whole sentence"),
        ({"raw": " \n"}, "`raw` is blank: write the whole sentence"),
        (
            {"task": "<OD>", "parse": "boxes"},
            "`parse` is for a prompt in `raw`, and tasks have their own: leave it",
        ),
        ({"parse": "boxes"}, "`parse` is for a prompt in `raw`"),
        ({}, "name a task in `task`"),
        ({"raw": None}, "or write a fine-tune's own prompt in `raw`"),
        (
            {"raw": "what?", "parse": "ocr"},
            "prompts.0.parse: must be 'text', 'boxes', 'phrases', 'proposals',",
        ),
        ("<CAPTOIN>", """'<CAPTOIN>' is not a task of Florence-2; the tasks are <CAPTION>, """),
        ("<CAPTOIN>", """; a fine-tune's own prompt is written as {"raw": …}"""),
        ({"task": "<DocVQA>"}, """; a fine-tune's own prompt is written as {"raw": …}"""),
    ],
)
def test_what_is_no_prompt_is_told_what_to_do(prompt: Any, sentence: str) -> None:
    refused = wrong(prompts=[prompt])
    assert sentence in refused
    assert refused.count("prompts.0") == 1
    assert refused.startswith("prompts.0")


def test_version_2_is_said_of_what_version_1_cannot_say_and_of_nothing_else() -> None:
    plain, own = parsed(), parsed(prompts=["<OD>", OWN])
    assert (plain.schema_version, own.schema_version) == (1, 2)
    assert parsed(schema_version=2).schema_version == 2
    assert parsed(prompts=OWN, schema_version=2) == parsed(prompts=OWN)


def test_a_message_that_says_less_than_it_needs_is_told_what_it_needs() -> None:
    sentence = wrong(prompts=["<OD>", OWN], schema_version=1)
    assert sentence == "schema_version: must be 2 where a prompt is in `raw`, or be left out"


def test_a_chunk_stays_of_version_2_through_all_its_attempts() -> None:
    images = (ImageRef(uri=IMAGE), ImageRef(uri="s3://photos/b.jpg"))
    chunk = Chunk(images=images, prompts=(Prompt(**OWN),), output=PREFIX, job_id="j", index=0)
    for each in (chunk, chunk.only([1]), chunk.retry_of(images[:1]), Chunk.model_validate(chunk.to_wire())):
        wire = each.to_wire()
        assert (wire["prompts"], wire["schema_version"]) == ([{"raw": OWN["raw"], "parse": "text"}], 2)


def test_prompts_that_differ_in_their_sentence_or_kind_are_different_work() -> None:
    def digest(**own: str) -> str:
        images = (ImageRef(uri=IMAGE),)
        return Chunk(images=images, prompts=(Prompt(**own),), output=PREFIX, job_id="j", index=0).digest

    asked = digest(raw="what?")
    assert digest(raw="what?", parse="text") == asked
    assert len({asked, digest(raw="what? "), digest(raw="what?", parse="boxes")}) == 3


# Chunks

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
optional_words = st.none() | words
image_refs = st.builds(
    ImageRef,
    uri=words.map("s3://photos/".__add__),
    id=optional_words,
    version_id=optional_words,
    etag=optional_words,
)
edges = st.floats(min_value=0, max_value=1e6)
regions = st.tuples(edges, edges, edges, edges).filter(lambda region: region[0] < region[2] and region[1] < region[3])
bare_prompts = st.sampled_from([token for token, task in TASKS.items() if task.takes is Takes.NOTHING]).map(
    lambda token: Prompt(task=token)
)
text_prompts = st.builds(Prompt, task=st.just(CAR["task"]), text=words.filter(str.strip))
region_prompts = st.builds(Prompt, task=st.just(REGION["task"]), region=regions)
own_prompts = st.builds(Prompt, raw=words.filter(str.strip), parse=st.sampled_from(Answer))
chunks = st.builds(
    Chunk,
    images=st.lists(image_refs, min_size=1, max_size=4).map(tuple),
    prompts=st.lists(bare_prompts | text_prompts | region_prompts | own_prompts, min_size=1, max_size=4).map(tuple),
    output=st.builds(
        Output, prefix=st.just(PREFIX), format=st.sampled_from(["jsonl", "parquet"]), inline=st.booleans()
    ),
    generation=st.builds(
        GenerationOptions,
        num_beams=st.none() | st.integers(1, MAX_BEAMS),
        max_new_tokens=st.none() | st.integers(2, MAX_NEW_TOKENS),
    ),
    job_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    index=st.integers(0, MAX_CHUNKS - 1),
    attempt=st.integers(1, 1000),
)


@patient
@given(chunks)
def test_a_chunk_on_the_wire_parses_back_to_itself(chunk: Chunk) -> None:
    wire = json.loads(json.dumps(chunk.to_wire()))
    message = parse_message([], wire)
    assert Chunk.model_validate(message.model_dump()) == chunk
    assert parse_message([wire], {}) == message
    assert Chunk.model_validate(wire) == chunk


def test_what_stands_at_its_default_does_not_travel() -> None:
    chunk = Chunk(images=(ImageRef(uri=IMAGE),), prompts=(Prompt(task="<OD>"),), output=PREFIX, job_id="j", index=0)
    assert chunk.to_wire() == {
        "images": [{"uri": IMAGE}],
        "prompts": [{"task": "<OD>"}],
        "output": {"prefix": PREFIX},
        "job_id": "j",
        "index": 0,
        "schema_version": 1,
    }
    asking = chunk.model_copy(update={"generation": GenerationOptions(num_beams=1)})
    assert asking.to_wire() == {**chunk.to_wire(), "generation": {"num_beams": 1}}


def test_the_next_attempt_is_of_some_images_and_the_same_chunk() -> None:
    images = (ImageRef(uri=IMAGE), ImageRef(uri="s3://photos/b.jpg"))
    generation = GenerationOptions(num_beams=1, max_new_tokens=20)
    chunk = Chunk(
        images=images, prompts=(Prompt(task="<OD>"),), output=PREFIX, generation=generation, job_id="j", index=3
    )
    later = chunk.retry_of(images[1:])
    assert (later.images, later.attempt) == (images[1:], 2)
    assert (later.job_id, later.index, later.prompts, later.output) == ("j", 3, chunk.prompts, chunk.output)
    assert later.generation == generation


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@patient
@given(st.lists(json_values, max_size=4), st.dictionaries(st.text(), json_values, max_size=4))
def test_whatever_comes_is_parsed_or_refused_and_never_breaks(args: list[Any], kwargs: dict[str, Any]) -> None:
    with suppress(InvalidMessage):
        assert parse_message(args, kwargs).images


@pytest.mark.parametrize(
    "kwargs",
    [
        {"images": "s3://photos/Zürich 🏔.jpg"},
        # JSON may carry half a surrogate pair, which is no text; a letter must be written all the same.
        json.loads(r'{"images": "s3://photos/\ud83d.jpg"}'),
        json.loads(r'{"\ud83d": 1}'),
    ],
)
def test_what_was_refused_can_be_filed_in_full_and_read_back(kwargs: dict[str, Any]) -> None:
    raw = raw_message([1], kwargs)
    letter = DeadLetter(kind=LetterKind.MESSAGE, code="invalid_message", reason=refusal(**kwargs), raw=raw, worker="w")
    filed = DeadLetter.model_validate_json(letter.model_dump_json())
    assert json.loads(filed.raw) == {"args": [1], "kwargs": kwargs}
