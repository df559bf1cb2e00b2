"""How much a lane takes before it is at one of its high-water marks."""

from typing import NamedTuple

from arno_producer.house import House
from arno_shared.broker import queue_bytes, queue_length
from arno_shared.errors import InvalidRequest, LaneFull
from arno_shared.names import Lane


class Room(NamedTuple):
    messages: int
    bytes: int

    def __bool__(self) -> bool:
        return self.messages > 0 and self.bytes > 0

    def less(self, message_bytes: int) -> "Room":
        """Of one message."""
        return Room(self.messages - 1, self.bytes - message_bytes)


NO_ROOM = Room(0, 0)


def room_in(house: House, lane: Lane) -> Room:
    """Raises HouseError."""
    marks = house.settings.producer
    return Room(
        marks.high_water_messages - queue_length(house.redis, lane),
        marks.high_water_bytes - queue_bytes(house.redis, lane),
    )


def check_room(house: House, lane: Lane, message_bytes: int = 0) -> None:
    """Raises LaneFull when the lane is at a mark, or messages of so many bytes would bring it beyond one; HouseError;
    and InvalidRequest when they alone would."""
    marks = house.settings.producer
    if message_bytes > marks.high_water_bytes:
        raise InvalidRequest(
            f"its messages take about {message_bytes:,} bytes, which is more than one request may put on a lane "
            f"({marks.high_water_bytes:,}): send several, of fewer images each"
        )
    room = room_in(house, lane)
    if room.messages <= 0:
        raise LaneFull(f"{marks.high_water_messages:,} messages or more wait in the lane {lane}: come again later")
    if room.bytes < max(message_bytes, 1):
        raise LaneFull(
            f"messages of {marks.high_water_bytes - room.bytes:,} bytes wait in the lane {lane}, which takes "
            f"{marks.high_water_bytes:,}: come again later"
        )
