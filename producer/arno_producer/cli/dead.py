"""`arno dead`: look at what was given up, put it back to work, or throw it away."""

import json
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from arno_producer.cli.terminal import JsonOption, emit, say, show_table
from arno_shared.errors import InvalidRequest
from arno_shared.uris import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arno_shared.dead_letters import DeadLetters, FiledLetter

app = typer.Typer(
    help="Dead letters: list them, replay them, purge them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Entries = Annotated[
    list[str] | None,
    typer.Argument(metavar="ENTRY", help="Ids, as arno dead list shows them.", show_default="all"),
]
JobOption = Annotated[str | None, typer.Option("--job", help="Only those of this job.", show_default="any")]
CodeOption = Annotated[
    str | None, typer.Option("--code", help="Only those given up for this reason.", show_default="any")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="At most so many, oldest first.", show_default="all")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_letters(
    job: JobOption = None, code: CodeOption = None, limit: LimitOption = None, json_lines: JsonOption = False
) -> None:
    """Show dead letters, oldest first, with why they were given up."""
    from arno_producer.cli.connection import connect

    letters = _select(connect().dead_letters, None, job, code, limit)
    if json_lines:
        for filed in letters:
            emit(_as_json(filed))
    else:
        show_table(("entry", "at", "kind", "job", "chunk", "images", "code", "reason"), map(_summary, letters))


@app.command()
def replay(entries: Entries = None, job: JobOption = None, code: CodeOption = None, limit: LimitOption = None) -> None:
    """Put dead letters back to work."""
    from arno_producer.cli.connection import connect

    producer = connect()
    replayed = 0
    refused = False
    # Read to the end first: what is replayed may come back as a new letter.
    for filed in list(_select(producer.dead_letters, entries, job, code, limit)):
        try:
            replayed += producer.replay(filed)
        except InvalidRequest as error:
            refused = True
            say(str(error))
    say(f"{replayed:,} replayed")
    raise typer.Exit(int(refused))


@app.command()
def purge(
    entries: Entries = None,
    job: JobOption = None,
    code: CodeOption = None,
    limit: LimitOption = None,
    yes: YesOption = False,
) -> None:
    """Throw dead letters away. Rows of failed images stay in the results."""
    from arno_producer.cli.connection import connect

    dead_letters = connect().dead_letters
    entry_ids = [filed.entry_id for filed in _select(dead_letters, entries, job, code, limit)]
    if entry_ids and not yes:
        typer.confirm(f"Throw {len(entry_ids):,} dead letters away for good?", abort=True, err=True)
    say(f"{sum(map(dead_letters.remove, entry_ids)):,} purged")


def _select(
    dead_letters: "DeadLetters", entries: list[str] | None, job: str | None, code: str | None, limit: int | None
) -> "Iterator[FiledLetter]":
    letters = dead_letters.list(job_id=job, code=code)
    return islice(_named(letters, set(entries)) if entries else letters, limit)


def _named(letters: "Iterator[FiledLetter]", entries: set[str]) -> "Iterator[FiledLetter]":
    """Raises InvalidRequest, at the end, when some are not there."""
    for filed in letters:
        if filed.entry_id in entries:
            entries.remove(filed.entry_id)
            yield filed
    if entries:
        raise InvalidRequest(
            f"no such dead letters: {', '.join(sorted(entries))}; arno dead list shows those there are"
        )


def _summary(filed: "FiledLetter") -> tuple[str, ...]:
    letter = filed.letter
    chunk = "" if letter.index is None else f"{letter.index}.{letter.attempt}"
    at = f"{letter.at:%Y-%m-%d %H:%M:%S}Z"
    return (
        filed.entry_id,
        at,
        letter.kind,
        letter.job_id or "",
        chunk,
        f"{letter.images:,}",
        letter.code,
        letter.reason,
    )


def _as_json(filed: "FiledLetter") -> str:
    fields = filed.letter.model_dump(mode="json")
    secretive = {name: redact(fields[name]) for name in ("reason", "raw")}
    return json.dumps({"entry_id": filed.entry_id, **fields, **secretive}, ensure_ascii=False)
