"""Two Arnos in one database of Redis do not meet."""

import redis

from arno_producer import Producer
from tests.acceptance.arno_worker import arno_worker, eventually
from tests.acceptance.conftest import NULL_ENGINE


def test_two_arnos_share_a_database_and_do_not_meet(settings, tmp_path, pictures, files_allowed) -> None:
    uris = pictures(40)
    north, south = (settings.model_copy(update={"key_prefix": prefix}) for prefix in ("north:", "south:"))
    env = {**files_allowed, **NULL_ENGINE, "ARNO_KEY_PREFIX": "south:"}
    waits = Producer(north).submit(uris, "<OD>", job_id="same", output=f"{settings.output_prefix}north/")
    with arno_worker(south, tmp_path, "south", env) as worker:
        done = Producer(south).submit(uris, "<OD>", job_id="same", output=f"{settings.output_prefix}south/")
        assert done.wait(60).ok == 40
        # Woken by a bell as well, and not by looking alone.
        again = Producer(south).submit(uris, "<OD>", job_id="later", output=f"{settings.output_prefix}later/")
        assert again.wait(60).ok == 40
        assert worker.terminate() == 0
    assert waits.status().ok == 0
    with redis.Redis.from_url(settings.redis_url) as client:
        keys = [key.decode() for key in client.keys("*")]
    assert {key.split(":")[0] for key in keys} == {"north", "south"}, keys
    with arno_worker(north, tmp_path, "north", env | {"ARNO_KEY_PREFIX": "north:"}):
        eventually(lambda: waits.status().ok == 40, "the other one's worker does it")
