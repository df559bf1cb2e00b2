"""`arno trigger`: what object storage says of new objects becomes work."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from arno_producer.cli.prompts import parse_prompt
from arno_producer.cli.terminal import say
from arno_shared.errors import InvalidRequest
from arno_shared.names import Lane

if TYPE_CHECKING:
    from arno_producer.client import Producer
    from arno_producer.triggers.rules import Rule
    from arno_producer.triggers.trigger import Trigger

app = typer.Typer(
    help="Turn S3 events into work, as objects are created.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

PromptsOption = Annotated[
    list[str] | None,
    typer.Option("--prompts", "--prompt", "-p", help="What to ask of each image; may be given more than once."),
]
OutputOption = Annotated[
    str | None, typer.Option(help="Where results go; each object has a folder below it.", show_default=False)
]
LaneOption = Annotated[Lane, typer.Option(help="Workers drain interactive before bulk.")]
BucketOption = Annotated[str | None, typer.Option(help="Only objects of this bucket.", show_default="any")]
PrefixOption = Annotated[str, typer.Option(help="Only objects whose key begins so.")]
SuffixOption = Annotated[list[str] | None, typer.Option(help="Only objects whose key ends so, as .jpg; repeatable.")]
RulesOption = Annotated[
    Path | None, typer.Option(help="A TOML file of rules, in place of all these options.", show_default=False)
]
QueueOption = Annotated[str, typer.Option(help="The queue's URL or name.", show_default=False)]


@app.command()
def sqs(
    queue: QueueOption,
    prompts: PromptsOption = None,
    output: OutputOption = None,
    lane: LaneOption = Lane.BULK,
    bucket: BucketOption = None,
    prefix: PrefixOption = "",
    suffix: SuffixOption = None,
    rules: RulesOption = None,
) -> None:
    """Take S3 events from an SQS queue, until SIGTERM.

    It may be filled by S3 itself, through SNS, or by EventBridge. A message is deleted once all of its objects are
    enqueued; one that cannot be read is left to the queue's dead-letter policy.
    """
    given = _rules(rules, prompts, output, lane, bucket, prefix, suffix)
    _run(given, lambda trigger, producer, stopping: _from_sqs(queue, given, trigger, producer, stopping))


@app.command()
def redis(
    key: Annotated[str, typer.Option(help="Where MinIO writes: a list (access) or a hash (namespace).")],
    redis_url: Annotated[str | None, typer.Option(help="MinIO's Redis.", show_default="ARNO_REDIS_URL")] = None,
    prompts: PromptsOption = None,
    output: OutputOption = None,
    lane: LaneOption = Lane.BULK,
    bucket: BucketOption = None,
    prefix: PrefixOption = "",
    suffix: SuffixOption = None,
    rules: RulesOption = None,
) -> None:
    """Take S3 events from Redis, where MinIO writes them, until SIGTERM.

    An entry is removed once all of its objects are enqueued; what cannot be read goes to the list KEY.arno-dead.
    """
    given = _rules(rules, prompts, output, lane, bucket, prefix, suffix)

    def run(trigger: "Trigger", producer: "Producer", stopping: Event) -> None:
        from arno_producer.triggers.redis_events import RedisTrigger

        lanes = _lanes(given)
        RedisTrigger(redis_url or producer.settings.redis_url, key, trigger, producer, lanes, stopping).run()

    _run(given, run)


@app.command()
def install(
    bucket: Annotated[str, typer.Option(help="The bucket whose new objects are to be told of.", show_default=False)],
    prefix: PrefixOption = "",
    suffix: Annotated[str, typer.Option(help="Only objects whose key ends so, as .jpg.")] = "",
    queue: Annotated[str | None, typer.Option(help="The queue's name.", show_default="arno-BUCKET")] = None,
    dead_letters: Annotated[
        str | None, typer.Option(help="The name of its dead-letter queue.", show_default="QUEUE-dead")
    ] = None,
    max_receives: Annotated[int, typer.Option(min=1, max=1000, help="Deliveries before a message goes there.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    prompts: PromptsOption = None,
    output: OutputOption = None,
    lane: LaneOption = Lane.BULK,
) -> None:
    """Make a bucket tell a queue of its new objects, after saying what that takes; then take them, where asked to.

    With --prompts and --output it goes on as `arno trigger sqs` does: one command from bucket to results. Whatever else
    the bucket tells of stays.
    """
    from arno_producer.triggers.install import Installation

    given = _rules(None, prompts, output, lane, bucket, prefix, [suffix] if suffix else None) if prompts else None
    if given is not None and given[0].watches_its_output:
        raise InvalidRequest("--output lies where the bucket's new objects are watched: each result would be told of")
    wanted = Installation(
        bucket, prefix=prefix, suffix=suffix, queue=queue, dead_letters=dead_letters, max_receives=max_receives
    )
    steps = wanted.plan()
    for step in steps:
        say(step.words)
    if not steps:
        say("All is set up already.")
    elif dry_run:
        say("Nothing was changed.")
    elif not _may(yes):
        say("Nothing was changed: say --yes to have it done.")
        raise typer.Exit(1)
    else:
        wanted.take(steps)
        say(f"Done: {bucket} tells {wanted.queue}.")
    if given is not None and not dry_run:
        url = wanted.queue_url()
        _run(given, lambda trigger, producer, stopping: _from_sqs(url, given, trigger, producer, stopping))


def _may(yes: bool) -> bool:
    return yes or (sys.stdin.isatty() and typer.confirm("Do this?", err=True))


def _rules(
    file: Path | None,
    prompts: list[str] | None,
    output: str | None,
    lane: Lane,
    bucket: str | None,
    prefix: str,
    suffix: list[str] | None,
) -> "tuple[Rule, ...]":
    from pydantic import ValidationError

    from arno_producer.triggers.rules import Rule, load_rules
    from arno_shared.messages import describe_invalid

    if file is not None:
        if prompts or output or bucket or prefix or suffix:
            raise InvalidRequest("--rules says all that the other options would: give the one or the others")
        return load_rules(file)
    if not prompts or not output:
        raise InvalidRequest("--prompts and --output are needed, or --rules")
    try:
        rule = Rule.model_validate(
            {
                "name": "events",
                "bucket": bucket,
                "prefix": prefix,
                "suffix": tuple(suffix or ()),
                "prompts": [parse_prompt(text) for text in prompts],
                "output": output,
                "lane": lane,
            }
        )
    except ValidationError as error:
        raise InvalidRequest(describe_invalid(error)) from None
    return (rule,)


def _lanes(rules: "tuple[Rule, ...]") -> list[Lane]:
    return sorted({rule.lane for rule in rules})


def _from_sqs(queue: str, rules: "tuple[Rule, ...]", trigger: "Trigger", producer: "Producer", stopping: Event) -> None:
    from arno_producer.triggers.sqs import SqsTrigger

    SqsTrigger(queue, trigger, producer, _lanes(rules), stopping).run()


def _run(rules: "tuple[Rule, ...]", run: Callable[["Trigger", "Producer", Event], None]) -> None:
    """Until SIGTERM or SIGINT."""
    from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

    from arno_producer.cli.connection import connect_unchecked
    from arno_producer.triggers.trigger import Trigger
    from arno_shared import logs, tracing
    from arno_shared.house_metrics import HouseCollector

    producer = connect_unchecked()
    settings = producer.settings
    logs.configure(settings.log_level)
    log = logs.get_logger(__name__)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(HouseCollector(settings))
    tracing.configure("arno-trigger")
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    host, port = settings.trigger.metrics_host, settings.trigger.metrics_port
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise InvalidRequest(
            f"metrics cannot be served on port {port} of {host} ({error.strerror}): set ARNO_TRIGGER__METRICS_PORT to "
            "a free one, or to 0 for any"
        ) from None
    try:
        trigger = Trigger(producer, rules, registry)
        log.info("trigger starts", rules=[rule.name for rule in rules], metrics=f"{host}:{server.server_port}")
        run(trigger, producer, stopping)
    finally:
        tracing.stop()
        server.shutdown()
        log.info("trigger stopped")
