"""The story of the demo, from top to bottom."""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from arno_producer.client import Producer
from arno_producer.demo import pictures, servers, signals
from arno_producer.demo.console import DemoConsole
from arno_producer.demo.outcome import TASKS, Announcements, Outcome, compare
from arno_producer.demo.pictures import BUCKET
from arno_producer.demo.processes import Children
from arno_producer.demo.report import write_report
from arno_producer.demo.servers import Ports
from arno_producer.job import Job
from arno_shared.errors import ArnoError, DemoFailed, InvalidRequest
from arno_shared.topic import TopicReader

_STALLED_S = 120


def run(scenes: int, workers: int, keep: bool, report: Path) -> int:
    """The exit code: 0 when every image ended as it had to. Whatever was started is stopped, whatever happens.

    Raises InvalidRequest when there is no place for the report.
    """
    console = DemoConsole()
    try:
        report.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"the report cannot be written: {error}") from None
    try:
        outcome = _on_stage(console, scenes, workers, keep, report)
    except DemoFailed as error:
        console.failure(str(error))
        return 1
    except signals.Ended as end:
        console.say(f"{end}: everything is stopped")
        return end.exit_code
    return 1 if outcome.problems else 0


def _on_stage(console: DemoConsole, scenes: int, workers: int, keep: bool, report: Path) -> Outcome:
    """Sets everything up, plays, and takes everything down again in the opposite order."""
    ports = Ports.free()
    with (
        signals.ignored() as heeded,
        TemporaryDirectory(prefix="arno-demo-") as folder_name,
        servers.environment_of_the_demo(ports, folder := Path(folder_name)),
        Children(folder) as children,
        signals.raised(heeded),
    ):
        outcome = _play(console, children, ports, scenes, workers)
        console.outcome(outcome, write_report(outcome, report))
        if keep:
            _keep_up(console, children, ports)
        return outcome


def _play(console: DemoConsole, children: Children, ports: Ports, scenes: int, workers: int) -> Outcome:
    try:
        servers.start_all(children, ports, workers)
        console.say(f"Valkey is up; S3, Flower and {workers} workers are starting")
        sent = [*pictures.scene_pictures(scenes), *pictures.broken_pictures()]
        producer = Producer()
        servers.wait_for_s3(children, ports)
        pictures.create_bucket()
        pictures.upload(producer.store, sent)
        console.say(f"{scenes} pictures are drawn and uploaded, and {len(sent) - scenes} that cannot be done")
        servers.wait_for_workers(children, workers)
        servers.wait_for_flower(children, ports)
        console.say(f"the workers have loaded their models; Flower watches them: {ports.flower_url}")
        job = producer.submit((picture.ref for picture in sent), TASKS, output=f"s3://{BUCKET}/results/")
        console.say(f"job {job.id}: {len(sent)} images, {len(TASKS)} prompts each")
        announcements = _follow(console, children, producer, job, len(sent))
        return compare(sent, job.results(), announcements, job.status().chunks)
    except ArnoError:
        # The likeliest reason that Redis or S3 is away.
        children.check()
        raise


def _follow(console: DemoConsole, children: Children, producer: Producer, job: Job, images: int) -> Announcements:
    """Reads the topic until the job is done."""
    announcements = Announcements()
    reader = TopicReader(producer.redis, group="demo", consumer="demo")
    last_event_s = monotonic()
    with console.progress(images) as show:
        while True:
            # Asked for before the events are: a finished job has announced everything.
            finished = job.status().finished
            events = reader.read(block_s=0.2)
            for _, event in events:
                announcements.add(event)
            reader.ack([entry_id for entry_id, _ in events])
            show(announcements.images)
            if finished and not events:
                return announcements
            children.check()
            last_event_s = monotonic() if events else last_event_s
            if monotonic() - last_event_s > _STALLED_S:
                raise children.failure(f"No chunk was announced for {_STALLED_S} s")


def _keep_up(console: DemoConsole, children: Children, ports: Ports) -> None:
    """Until a signal comes, which is how it is meant to end."""
    console.kept(ports)
    try:
        while True:
            children.check()
            sleep(0.5)
    except signals.Ended:
        console.say("stopping")
