"""Things are handed over once each, in order, a bounded number at a time."""

from threading import Thread

from arno_workers.handover import Handover


def test_what_is_put_is_taken_once_and_in_order() -> None:
    handover: Handover[int] = Handover(1000)
    for number in range(10):
        handover.put(number)
    assert [handover.take(4), handover.take(4), handover.take(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_lingering_makes_a_fuller_batch_of_what_comes_meanwhile() -> None:
    handover: Handover[int] = Handover(1000)
    handover.put(1)
    late = Thread(target=lambda: [handover.put(number) for number in (2, 3)])
    late.start()
    late.join()
    assert handover.take(8, linger_s=0.01) == [1, 2, 3]


def test_putting_blocks_when_it_is_full_and_goes_on_when_there_is_room() -> None:
    handover: Handover[int] = Handover(2)
    through: list[int] = []

    def feed() -> None:
        for number in range(6):
            handover.put(number)
            through.append(number)

    feeder = Thread(target=feed)
    feeder.start()
    feeder.join(0.3)
    assert through == [0, 1]
    taken: list[int] = []
    while len(taken) < 6:
        taken += handover.take(2)
    feeder.join(10)
    assert taken == list(range(6))


def test_what_takes_no_room_is_never_kept_waiting() -> None:
    handover: Handover[int] = Handover(1)
    for number in range(5):
        handover.put_at_once(number)
    assert handover.take(5) == [0, 1, 2, 3, 4]


def test_once_closed_and_drained_every_taker_is_told() -> None:
    handover: Handover[int] = Handover(10)
    handover.put(1)
    handover.close()
    assert [handover.take(), handover.take(), handover.take()] == [[1], [], []]
