"""The HTTP door in this process, on a real Valkey; a worker by hand does what it was asked."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi.testclient import TestClient

from arno_producer import Producer
from arno_producer.http.app import door
from arno_shared.settings import Settings

Open = Callable[..., TestClient]


@pytest.fixture
def open_door(settings: Settings) -> Iterator[Open]:
    """Opens a door with these settings of its own."""
    with ExitStack() as stack:

        def opened(**http: Any) -> TestClient:
            own = settings.model_copy(update={"http": type(settings.http)(**http)})
            app = door(Producer(own))
            return stack.enter_context(TestClient(app, base_url="http://localhost", raise_server_exceptions=False))

        yield opened


@pytest.fixture
def client(open_door: Open) -> TestClient:
    return open_door()
