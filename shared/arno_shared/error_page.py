"""Explains every error code, as the error tree has it: `python -m arno_shared.error_page docs/errors.md`."""

import sys
from collections.abc import Iterator
from pathlib import Path

from arno_shared.dead_letters import LetterKind
from arno_shared.errors import (
    ArnoError,
    CredentialsRefused,
    HouseError,
    IncompatibleKombu,
    InternalError,
    InvalidMessage,
    InvalidRequest,
    ItemError,
    LaneFull,
    MissingExtra,
    ModelUnusable,
    NewerSchema,
    RedisRefused,
    StorageRefused,
    WorkerLost,
)

_PAGE = """\
# Error codes

<!-- Written by `make errors` from shared/arno_shared/errors.py: change it there. -->

A code is stable and may be relied upon; the words beside it say more, and are for people. All are one tree, whose root
callers of `arno_producer` may catch:

```text
{tree}
```

| code | what happened | tried again | seen in |
|---|---|---|---|
{table}

## Where codes are seen

**Result rows and events.** A row's `error.code`, the `data.failed` of its chunk's event, and the counts of
`arno status`. What failed for good is not done again when its job is submitted again: mend it, and submit these images
as another job.

```sh
arno results run-7 --failed | jq -r .image.uri | arno submit - -p OD --job-id run-7-again
```

**Dead letters.** `arno dead list` shows them, with a kind:

| kind | what was given up | its codes |
|---|---|---|
| `message` | A message of which nothing was done. | {message} |
| `chunk` | A whole chunk: it has no result object, and its images have no rows. | {chunk} |
| `images` | Images that failed too many times; they have rows as well. The code is that of most of them. | {images} |

**Raised to the caller.** By `arno_producer`, and printed by `arno`, which then exits with 1, or with 2 when it was
asked wrongly. What is said of an image is raised too, when a manifest or a result cannot be read. `arno-worker` prints
why it does not start, and exits with 1.

## Each code

{sections}
"""

_AGAIN = {
    NewerSchema: "yes: it waits for workers that speak its version",
    HouseError: "yes: workers wait as long as it takes, a submission that has begun up to `ARNO_PRODUCER__PATIENCE_S`",
    RedisRefused: "yes: workers wait until it is mended; a submission, and a worker that starts, end at once",
    CredentialsRefused: "yes: workers wait for right ones",
    LaneFull: "no; `arno submit` and triggers wait for room instead",
    WorkerLost: "no: it was begun up to `ARNO_RETRIES__MAX_DELIVERIES` times before",
}
_IMAGE_AGAIN = "yes: `ARNO_RETRIES__TRIES` times in the worker, and so in each of `ARNO_RETRIES__MAX_ATTEMPTS` attempts"


def page() -> str:
    """The page, as Markdown: the tree, and each code in its order."""
    errors = tree()
    filed = {kind.value: ", ".join(_link(error) for error in errors if _is_filed(error, kind)) for kind in LetterKind}
    return _PAGE.format(
        tree="\n".join(["ArnoError", *_drawn(ArnoError)]),
        table="\n".join(_line(error) for error in errors),
        sections="\n\n".join(_section(error) for error in errors),
        **filed,
    )


def tree(root: type[ArnoError] = ArnoError) -> list[type[ArnoError]]:
    """The classes below `root`, each before those that derive from it, in the order in which they are declared."""
    return [error for child in _children(root) for error in (child, *tree(child))]


def export(file: Path) -> None:
    file.write_text(page())


def _children(error: type[ArnoError]) -> list[type[ArnoError]]:
    return [child for child in error.__subclasses__() if child.__module__ == ArnoError.__module__]


def _drawn(error: type[ArnoError], indent: str = "") -> Iterator[str]:
    children = _children(error)
    for child in children:
        last = child is children[-1]
        yield f"{indent}{'└' if last else '├'}── {child.__name__}".ljust(32) + child.code
        yield from _drawn(child, indent + ("    " if last else "│   "))


def _line(error: type[ArnoError]) -> str:
    again, _, _ = _again(error).partition(":")
    return f"| {_link(error)} | {error.__doc__} | {again} | {'; '.join(_seen_in(error))} |"


def _section(error: type[ArnoError]) -> str:
    return f"""\
### `{error.code}`

{error.__doc__}

- Class: `{error.__name__}`
- Tried again by Arno: {_again(error)}
- Seen in: {"; ".join(_seen_in(error))}
- What to do: {error.remedy}"""


def _again(error: type[ArnoError]) -> str:
    if error in _AGAIN:
        return _AGAIN[error]
    return _IMAGE_AGAIN if error.retryable else "no"


def _seen_in(error: type[ArnoError]) -> list[str]:
    """As far as the tree knows."""
    places = []
    if issubclass(error, ItemError):
        places.append("result rows and events")
    elif error is NewerSchema:
        places.append("a queue of its own")
    elif not issubclass(error, InvalidMessage | InternalError | ModelUnusable):
        places.append(f"raised to the caller (`arno` exits with {2 if issubclass(error, InvalidRequest) else 1})")
    if error in (IncompatibleKombu, MissingExtra, ModelUnusable):
        places.append("exit of `arno-worker`")
    return places + [f"dead letters ({kind.value})" for kind in LetterKind if _is_filed(error, kind)]


def _is_filed(error: type[ArnoError], kind: LetterKind) -> bool:
    """Whether dead letters of that kind may carry its code."""
    match kind:
        case LetterKind.MESSAGE:
            return issubclass(error, InvalidMessage | InternalError)
        case LetterKind.CHUNK:
            return error in (StorageRefused, MissingExtra, InternalError, WorkerLost)
        case LetterKind.IMAGES:
            return issubclass(error, ItemError) and error.retryable


def _link(error: type[ArnoError]) -> str:
    return f"[`{error.code}`](#{error.code})"


if __name__ == "__main__":
    export(Path(sys.argv[1]))
