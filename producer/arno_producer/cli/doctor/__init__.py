"""`arno doctor`: is everything there that a job needs?"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from arno_producer.cli.terminal import JsonOption, emit, show_table
from arno_shared.uris import redact

if TYPE_CHECKING:
    from arno_producer.cli.doctor.findings import Finding
    from arno_producer.client import Producer


def doctor(json_lines: JsonOption = False) -> None:
    """Check what jobs need, and say how to mend it.

    Looks at Redis, storage, workers, the model that ARNO_WORKER__MODEL names, and the optional parts of Arno.
    Exits with 1 when something that jobs need has failed.
    """
    from arno_producer.cli.connection import connect_unchecked
    from arno_producer.cli.doctor.findings import Verdict

    findings = list(_examine(connect_unchecked()))
    if json_lines:
        for finding in findings:
            texts = {name: redact(text) for name, text in finding._asdict().items()}
            emit(json.dumps(texts, ensure_ascii=False))
    else:
        show_table(("", "check", "finding", "what to do"), ((f.verdict, f.check, f.says, f.mend) for f in findings))
    raise typer.Exit(int(any(finding.verdict is Verdict.FAILED for finding in findings)))


def _examine(producer: "Producer") -> Iterator["Finding"]:
    from arno_producer.cli.doctor.extras import check_extras
    from arno_producer.cli.doctor.findings import Verdict
    from arno_producer.cli.doctor.model import check_model
    from arno_producer.cli.doctor.queues import check_queues
    from arno_producer.cli.doctor.redis import check_redis
    from arno_producer.cli.doctor.storage import check_conditional_writes, check_storage
    from arno_producer.cli.doctor.workers import check_workers

    settings = producer.settings
    findings = list(check_redis(producer))
    yield from findings
    if findings[0].verdict is Verdict.OK:
        yield from check_workers(producer)
        yield from check_queues(producer.redis)
    storage = check_storage(producer.store, settings.output_prefix)
    yield storage
    if storage.verdict is Verdict.OK:
        yield check_conditional_writes(producer.store, settings.output_prefix)
    yield check_model(settings.worker, producer.store)
    yield from check_extras()
