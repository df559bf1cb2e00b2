"""What a real worker says of itself."""

from collections.abc import Callable

import pytest

from arno_producer import Producer
from arno_shared.presence import workers
from tests.acceptance.arno_worker import ArnoWorker, eventually


@pytest.mark.parametrize(("engine", "execution"), [("florence", "plain"), ("null", "nothing")])
def test_it_says_how_it_computes(
    producer: Producer, start_worker: Callable[..., ArnoWorker], engine: str, execution: str
) -> None:
    start_worker(ARNO_WORKER__ENGINE=engine)

    def said() -> str:
        (seen,) = workers(producer.redis)
        assert seen.state
        return seen.state.execution

    assert eventually(said, "its replica is loaded") == execution
