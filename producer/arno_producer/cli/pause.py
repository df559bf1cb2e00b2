"""`arno pause`."""

import json

from arno_producer.cli.terminal import JobArgument, JsonOption, emit, say


def pause(job: JobArgument, json_lines: JsonOption = False) -> None:
    """Let a job stand still until `arno resume`. Chunks that workers have begun are finished; others are kept."""
    from arno_producer.cli.connection import connect

    state = connect().job(job).pause()
    say(f"Job {job} is paused; arno resume {job} lets it go on.")
    if json_lines:
        emit(json.dumps({"job_id": job, "state": state}))
