"""Makes a bucket tell a queue of its new objects: queue, dead letters, policy, and the bucket's notification."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from arno_shared.errors import AccessDenied, HouseError, InvalidRequest, NotFound

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

_CREATED = "s3:ObjectCreated:*"
_VISIBILITY_S = 120
_KEPT_S = 14 * 24 * 3600
_NO_QUEUE = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


class Step(NamedTuple):
    words: str
    """What is done, for whoever is asked whether it may be."""
    take: Callable[[], None]


class Installation:
    """What is there already is left as it is, or changed no more than it must be; done twice, it changes nothing."""

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        suffix: str = "",
        queue: str | None = None,
        dead_letters: str | None = None,
        max_receives: int = 5,
    ) -> None:
        self.bucket, self.prefix, self.suffix = bucket, prefix, suffix
        self.queue = queue or f"arno-{bucket.replace('.', '-')}"[:80]
        self.dead_letters = dead_letters or f"{self.queue[:75]}-dead"
        self._max_receives = max_receives
        self._s3: S3Client = boto3.client("s3")
        self._sqs: SQSClient = boto3.client("sqs")

    def plan(self) -> list[Step]:
        """The steps that are missing, in their order. Nothing is changed.

        Raises NotFound (no such bucket), AccessDenied, InvalidRequest (the bucket tells another queue of the same
        objects, which S3 does not allow), HouseError.
        """
        with _explained(self.bucket):
            notifications = self._notifications()
            return [step for step in self._steps(notifications) if step is not None]

    def queue_url(self) -> str:
        """Once it is made."""
        with _explained(self.bucket):
            return self._sqs.get_queue_url(QueueName=self.queue)["QueueUrl"]

    def take(self, steps: list[Step]) -> None:
        """Raises as `plan` does."""
        with _explained(self.bucket):
            for step in steps:
                step.take()

    def _steps(self, notifications: dict[str, Any]) -> Iterator[Step | None]:
        dead, queue = self._attributes(self.dead_letters), self._attributes(self.queue)
        if dead is None:
            yield Step(f"+ queue {self.dead_letters}, for messages that cannot be read", self._make_dead_letters)
        if queue is None:
            words = f"+ queue {self.queue}; after {self._max_receives} deliveries, messages go to {self.dead_letters}"
            yield Step(words, self._make_queue)
        elif not self._redrives(queue):
            words = f"~ queue {self.queue}: after {self._max_receives} deliveries, messages go to {self.dead_letters}"
            yield Step(words, self._set_redrive)
        if queue is None or not self._lets_in(queue):
            yield Step(f"~ policy of {self.queue}: the bucket {self.bucket} may send to it", self._set_policy)
        if not self._tells(notifications):
            where = f"{self.prefix}*{self.suffix}"
            words = f"~ bucket {self.bucket}: tells {self.queue} of each new object {where}"
            yield Step(words, self._set_notification)

    # What stands

    def _notifications(self) -> dict[str, Any]:
        found = dict(self._s3.get_bucket_notification_configuration(Bucket=self.bucket))
        found.pop("ResponseMetadata", None)
        return found

    def _attributes(self, queue: str) -> dict[str, str] | None:
        try:
            url = self._sqs.get_queue_url(QueueName=queue)["QueueUrl"]
            found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            return {str(name): value for name, value in found.items()}
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _NO_QUEUE:
                return None
            raise

    def _arn(self, queue: str) -> str:
        attributes = self._attributes(queue)
        assert attributes, f"{queue} was made"
        return attributes["QueueArn"]

    def _redrives(self, queue: dict[str, str]) -> bool:
        return "RedrivePolicy" in queue

    def _lets_in(self, queue: dict[str, str]) -> bool:
        policy = json.loads(queue.get("Policy") or "{}")
        return any(statement.get("Sid") == self._statement_id for statement in policy.get("Statement", ()))

    @property
    def _statement_id(self) -> str:
        return "arno-" + "".join(character if character.isalnum() else "-" for character in self.bucket)

    def _tells(self, notifications: dict[str, Any]) -> bool:
        return any(
            one.get("QueueArn", "").endswith(f":{self.queue}") and _filter_of(one) == (self.prefix, self.suffix)
            for one in notifications.get("QueueConfigurations", ())
        )

    # What is done

    def _make_dead_letters(self) -> None:
        self._sqs.create_queue(QueueName=self.dead_letters, Attributes={"MessageRetentionPeriod": str(_KEPT_S)})

    def _make_queue(self) -> None:
        self._sqs.create_queue(
            QueueName=self.queue,
            Attributes={
                "VisibilityTimeout": str(_VISIBILITY_S),
                "MessageRetentionPeriod": str(_KEPT_S),
                "RedrivePolicy": self._redrive(),
            },
        )

    def _set_redrive(self) -> None:
        self._set("RedrivePolicy", self._redrive())

    def _redrive(self) -> str:
        return json.dumps({"deadLetterTargetArn": self._arn(self.dead_letters), "maxReceiveCount": self._max_receives})

    def _set_policy(self) -> None:
        queue = self._attributes(self.queue) or {}
        policy = json.loads(queue.get("Policy") or "{}") or {"Version": "2012-10-17"}
        arn = queue["QueueArn"]
        statement = {
            "Sid": self._statement_id,
            "Effect": "Allow",
            "Principal": {"Service": "s3.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
            # Of this account's bucket alone: names of buckets can be had by others once they are given up.
            "Condition": {
                "ArnLike": {"aws:SourceArn": f"arn:aws:s3:::{self.bucket}"},
                "StringEquals": {"aws:SourceAccount": arn.split(":")[4]},
            },
        }
        policy["Statement"] = [*policy.get("Statement", []), statement]
        self._set("Policy", json.dumps(policy))

    def _set_notification(self) -> None:
        notifications = self._notifications()
        own = {
            "Id": f"arno-{self.queue}",
            "QueueArn": self._arn(self.queue),
            "Events": [_CREATED],
            "Filter": {
                "Key": {
                    "FilterRules": [
                        {"Name": name, "Value": value}
                        for name, value in (("prefix", self.prefix), ("suffix", self.suffix))
                        if value
                    ]
                }
            },
        }
        if not own["Filter"]["Key"]["FilterRules"]:  # type: ignore[index]
            del own["Filter"]
        others = [one for one in notifications.get("QueueConfigurations", []) if one.get("Id") != own["Id"]]
        notifications["QueueConfigurations"] = [*others, own]
        self._s3.put_bucket_notification_configuration(
            Bucket=self.bucket,
            NotificationConfiguration=notifications,  # type: ignore[arg-type]
        )

    def _set(self, name: Literal["Policy", "RedrivePolicy"], value: str) -> None:
        url = self._sqs.get_queue_url(QueueName=self.queue)["QueueUrl"]
        self._sqs.set_queue_attributes(QueueUrl=url, Attributes={name: value})


def _filter_of(configuration: dict[str, Any]) -> tuple[str, str]:
    rules = configuration.get("Filter", {}).get("Key", {}).get("FilterRules", ())
    found = {rule["Name"].lower(): rule["Value"] for rule in rules}
    return found.get("prefix", ""), found.get("suffix", "")


@contextmanager
def _explained(bucket: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        words = error.response.get("Error", {}).get("Message", code)
        if code in ("NoSuchBucket", "404"):
            raise NotFound(f"there is no bucket {bucket!r}") from None
        if "AccessDenied" in code or code in ("403", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            raise AccessDenied(f"these credentials may not set it up: {words}") from None
        if code == "InvalidArgument":
            raise InvalidRequest(
                f"S3 refuses the notification of {bucket!r}: {words}. Another one may tell of the same objects: choose "
                "another --prefix or --suffix, or remove that one"
            ) from None
        raise HouseError(f"AWS cannot be used: {words}") from error
    except BotoCoreError as error:
        raise HouseError(f"AWS cannot be used: {error}") from error
