"""What came of the job, compared with what is known to be true."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from arno_producer.demo.pictures import SIZE_PX, Picture
from arno_shared.results import PromptResult, ResultRow, Status
from arno_shared.scenes import Scene, answer, matches
from arno_shared.topic import ChunkEvent

CAPTION, OBJECTS, TEXT = TASKS = ("<CAPTION>", "<OD>", "<OCR>")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer, in words, beside the truth."""

    task: str
    said: str
    truth: str
    right: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture and the row that came out of it."""

    picture: Picture
    row: ResultRow
    verdicts: Sequence[Verdict]

    @property
    def failed(self) -> bool:
        return self.row.status is Status.FAILED

    @property
    def wrong(self) -> bool:
        return not all(verdict.right for verdict in self.verdicts)

    @property
    def as_expected(self) -> bool:
        return (self.row.error.code if self.row.error else None) == self.picture.must_fail_with


@dataclass(frozen=True, slots=True)
class Outcome:
    entries: Sequence[Entry]
    images_per_s: float | None
    problems: Sequence[str]
    """Why the job did not end as it had to; wrong answers of the model are not among them."""

    @property
    def done(self) -> int:
        return sum(not entry.failed for entry in self.entries)

    @property
    def failed_by_code(self) -> Mapping[str, int]:
        return Counter(entry.row.error.code for entry in self.entries if entry.row.error)

    @property
    def right_by_task(self) -> Mapping[str, int]:
        right = Counter(verdict.task for entry in self.entries for verdict in entry.verdicts if verdict.right)
        return {task: right[task] for task in TASKS}


class Announcements:
    """The topic's events for one job."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()
        self._commits: list[tuple[datetime, int]] = []

    def add(self, event: ChunkEvent) -> None:
        self._times[event.id] += 1
        self._commits.append((event.time, event.data.counts.ok + event.data.counts.failed))

    @property
    def images(self) -> int:
        return sum(images for _, images in self._commits)

    @property
    def images_per_s(self) -> float | None:
        """From the first commit to the last, so without the images of the first; None with less than two."""
        commits = sorted(self._commits)
        span_s = (commits[-1][0] - commits[0][0]).total_seconds() if commits else 0.0
        return sum(images for _, images in commits[1:]) / span_s if span_s else None

    def problems(self, chunks: int) -> list[str]:
        """Each chunk is announced, and once."""
        found = []
        if twice := sum(times > 1 for times in self._times.values()):
            found.append(f"{twice} chunks were announced more than once")
        if missing := chunks - len(self._times):
            found.append(f"{missing} of {chunks} chunks were not announced")
        return found


def compare(
    pictures: Sequence[Picture], rows: Iterable[ResultRow], announcements: Announcements, chunks: int
) -> Outcome:
    by_uri: dict[str, list[ResultRow]] = {picture.uri: [] for picture in pictures}
    for row in rows:
        by_uri[row.image.uri].append(row)
    entries = [
        Entry(picture, row, _verdicts(picture.scene, row)) for picture in pictures for row in by_uri[picture.uri][:1]
    ]
    problems = [f"{uri} has {len(found)} rows" for uri, found in by_uri.items() if len(found) != 1]
    problems += [_surprise(entry) for entry in entries if not entry.as_expected]
    problems += announcements.problems(chunks)
    return Outcome(entries, announcements.images_per_s, problems)


def _verdicts(scene: Scene | None, row: ResultRow) -> list[Verdict]:
    if scene is None:
        return []
    return [
        Verdict(
            task=task,
            said=_in_words(result),
            truth=_true_objects(scene) if task == OBJECTS else answer(scene, task),
            right=matches(scene, task, result.parsed, SIZE_PX),
        )
        # One that failed has no answers.
        for task, result in zip(TASKS, row.prompts, strict=False)
    ]


def _in_words(result: PromptResult) -> str:
    return ", ".join(result.parsed["labels"]) if result.task == OBJECTS else str(result.parsed)


def _true_objects(scene: Scene) -> str:
    return ", ".join(item.label for item in scene.objects)


def _surprise(entry: Entry) -> str:
    came = f"failed with {entry.row.error.code}" if entry.row.error else "was done"
    due = entry.picture.must_fail_with
    return f"{entry.picture.uri} {came}, and should have {f'failed with {due}' if due else 'been done'}"
