"""The way from the command line to Redis and storage; imported late, because it loads much."""

from typing import TYPE_CHECKING

from arno_shared.errors import HouseError, InvalidRequest

if TYPE_CHECKING:
    from arno_producer.client import Producer
    from arno_shared.settings import Settings


def load_settings() -> "Settings":
    """Raises InvalidRequest, which names the environment variable that is wrong."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from arno_shared.findings import findings_of
    from arno_shared.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        findings = "; ".join(
            f"ARNO_{'__'.join(map(str, place)).upper()}: {words}"
            for place, words in findings_of(error.errors(include_url=False, include_input=False))
        )
        raise InvalidRequest(f"settings: {findings}") from None
    except SettingsError as error:
        raise InvalidRequest(f"settings: {error}") from None


def connect() -> "Producer":
    """Raises InvalidRequest when a setting is wrong, HouseError, and RedisRefused when Arno cannot work with this
    Redis: single keys of a cluster, say, answer as if all were well."""
    from arno_shared.redis_server import check_server

    producer = connect_unchecked()
    check_server(producer.redis)
    return producer


def connect_unchecked() -> "Producer":
    """For who waits for a Redis that is away, or says what is wrong with it. Raises InvalidRequest when a setting is
    wrong."""
    from arno_producer.client import Producer

    settings = load_settings()
    try:
        return Producer(settings)
    except ValueError as error:
        raise InvalidRequest(f"ARNO_REDIS_URL: {error}") from None


def set_by(error: HouseError) -> str:
    """Which variable says where to find what is away."""
    if str(error).startswith("Redis"):
        return f" (ARNO_REDIS_URL is {load_settings().redis_url})"
    if str(error).startswith("object storage"):
        return " (AWS_ENDPOINT_URL_S3 sets the address)"
    return ""
