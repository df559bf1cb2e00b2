"""How long the stages of the device's work are said to take."""

import pytest

from arno_workers.engine.clock import DeviceStageClock, StageClock


class Device:
    """Does what it is handed when it is told to; its time is what the test says."""

    def __init__(self) -> None:
        self.ms, self.done = 0.0, 0
        self.events: list[Device.Event] = []

    class Event:
        def __init__(self, device: "Device") -> None:
            self.device, self.number, self.ms = device, -1, 0.0

        def record(self) -> None:
            self.number, self.ms = len(self.device.events), self.device.ms
            self.device.events.append(self)

        def query(self) -> bool:
            return self.number < self.device.done

        def elapsed_time(self, later: "Device.Event") -> float:
            return later.ms - self.ms


def test_a_stage_is_observed_when_it_ends_and_not_when_it_fails() -> None:
    seen: list[tuple[str, int]] = []
    clock = StageClock(lambda stage, size, seconds: seen.append((stage, size)))
    with clock.stage("vision", 8):
        assert not seen
    with pytest.raises(MemoryError), clock.stage("encode", 3):
        raise MemoryError
    assert seen == [("vision", 8)]


def test_what_a_device_does_later_is_observed_once_it_has_done_it() -> None:
    device = Device()
    seen: list[tuple[str, int, float]] = []
    clock = DeviceStageClock(lambda *observed: seen.append(observed), lambda: Device.Event(device))
    for name, size, took_ms in (("vision", 8, 40.0), ("step", 5, 2.0), ("step", 4, 3.0)):
        with clock.stage(name, size):
            device.ms += took_ms
        assert not seen
    device.done = 4
    with clock.stage("step", 1):
        device.ms += 1
    assert seen == [("vision", 8, 0.04), ("step", 5, 0.002)]
