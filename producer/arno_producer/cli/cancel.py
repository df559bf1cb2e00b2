"""`arno cancel`."""

import json

from arno_producer.cli.terminal import JobArgument, JsonOption, emit, say
from arno_shared.ledger import JobState


def cancel(job: JobArgument, json_lines: JsonOption = False) -> None:
    """Stop a job. Chunks that workers have begun are finished; results that are there stay."""
    from arno_producer.cli.connection import connect

    state = connect().job(job).cancel()
    say(f"Job {job} is cancelled." if state is JobState.CANCELLED else f"Job {job} was {state} already.")
    if json_lines:
        emit(json.dumps({"job_id": job, "state": state}))
