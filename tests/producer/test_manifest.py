"""What stands in storage of a job, and in the ledger, is to the byte what it was before prompts could be others."""

from datetime import UTC, datetime

from arno_producer.manifest import JobRecord, JobTerms
from arno_shared.messages import Prompt

TASKS = JobTerms(prompts=("<OD>",), output="s3://results/run-7/", chunk_images=32)
OWN = JobTerms(prompts=("<OD>", {"raw": "<VQA>what?"}), output="s3://results/run-7/", chunk_images=32)


def record_of(terms: JobTerms) -> JobRecord:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    return JobRecord(job_id="run-7", terms=terms, created_at=when, listed_chunks=3)


def test_the_terms_of_a_job_of_tasks_are_what_they_ever_were() -> None:
    asked = (
        {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a red car"},
        {
            "task": "<REGION_TO_CATEGORY>",
            "region": (10, 20, 200.5, 180),
        },
    )
    terms = JobTerms(
        prompts=asked, output="s3://results/run-7/", generation={"num_beams": 1, "max_new_tokens": 256}, chunk_images=32
    )
    assert terms.text() == (
        '{"prompts":[{"task":"<CAPTION_TO_PHRASE_GROUNDING>","text":"a red car","region":null},'
        '{"task":"<REGION_TO_CATEGORY>","text":null,"region":[10.0,20.0,200.5,180.0]}],'
        '"output":{"prefix":"s3://results/run-7/","format":"jsonl","inline":false},'
        '"generation":{"num_beams":1,"max_new_tokens":256},"chunk_images":32}'
    )


def test_the_record_of_a_job_of_tasks_is_what_it_ever_was() -> None:
    assert record_of(TASKS).encoded().decode() == (
        '{"job_id":"run-7","terms":{"prompts":[{"task":"<OD>","text":null,"region":null}],'
        '"output":{"prefix":"s3://results/run-7/","format":"jsonl","inline":false},'
        '"generation":{"num_beams":null,"max_new_tokens":null},"chunk_images":32},'
        '"created_at":"2026-01-02T03:04:05.678901Z","chunks":null,"images":null,"images_sha256":null,'
        '"listed_chunks":3,"schema_version":1}'
    )


def test_the_record_of_a_job_with_a_fine_tunes_own_prompt_says_that_it_is_newer() -> None:
    record = record_of(OWN)
    assert record.schema_version == 2
    again = JobRecord.model_validate_json(record.encoded())
    assert again == record
    assert again.terms.prompts[1] == Prompt(raw="<VQA>what?")
