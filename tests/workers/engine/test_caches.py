"""Caches keep what is in them when they grow, and move only on a CPU."""

import torch

from arno_workers.engine.caches import Room, SlotCaches

FIRST, MOST = Room(64, 64), Room(1024, 512)


def _caches(room: Room = FIRST, most: Room = MOST) -> SlotCaches:
    return SlotCaches(
        layers=2,
        slots=3,
        heads=4,
        width=8,
        beams=3,
        room=room,
        most=most,
        dtype=torch.float32,
        device="cpu",
    )


def test_a_cache_grows_no_further_than_it_must_and_says_that_it_moved() -> None:
    caches = _caches()
    assert (caches.room, caches.moves) == (Room(64, 64), 0)
    caches.make_room(64, 64)
    assert caches.moves == 0
    caches.make_room(1000, 511)
    assert (caches.room, caches.moves) == (MOST, 2)
    assert caches.cross_keys.shape == caches.cross_values.shape == (2, 4, 4, 1024, 8)
    assert caches.own_keys.shape == caches.own_values.shape == (2, 4, 4, 513, 3, 8)
    before = caches.cross_keys.data_ptr(), caches.own_keys.data_ptr()
    caches.make_room(1024, 512)
    assert (caches.cross_keys.data_ptr(), caches.own_keys.data_ptr()) == before


def test_growing_keeps_what_was_there_and_masks_what_is_new() -> None:
    caches = _caches()
    keys, values = torch.randn(2, 2, 4, 40, 8), torch.randn(2, 2, 4, 40, 8)
    slots = torch.tensor([2, 0])
    caches.fill(slots, keys, values)
    caches.own_keys[:, :, :, :5] = 7.0
    caches.make_room(300, 200)
    assert torch.equal(caches.cross_keys[:, slots, :, :40], keys)
    assert torch.equal(caches.cross_values[:, slots, :, :40], values)
    assert (caches.cross_bias[slots, :, :, :40] == 0).all()
    assert (caches.cross_bias[slots, :, :, 40:] == -torch.inf).all()
    assert (caches.own_keys[:, :, :, :5] == 7.0).all()
    assert (caches.own_keys[:, :, :, 5:] == 0).all()


def test_a_shorter_prompt_hides_the_longer_one_that_was_there_before() -> None:
    caches = _caches()
    slot = torch.tensor([1])
    caches.fill(slot, torch.ones(2, 1, 4, 90, 8), torch.ones(2, 1, 4, 90, 8))
    caches.fill(slot, torch.ones(2, 1, 4, 30, 8), torch.ones(2, 1, 4, 30, 8))
    assert (caches.cross_bias[1, 0, 0, :30] == 0).all()
    assert (caches.cross_bias[1, 0, 0, 30:] == -torch.inf).all()


def test_there_is_always_a_place_for_the_next_token_of_a_slot_that_is_done() -> None:
    caches = _caches(room=Room(1, 1), most=Room(1, 100))
    for tokens in range(1, 101):
        caches.make_room(1, tokens)
        assert caches.own_keys.shape[3] > tokens


def test_how_much_of_a_slot_counts_is_known_by_its_number_too() -> None:
    caches = _caches()
    for slots, length in (([0, 2], 30), ([2, 3], 64)):
        keys = torch.ones(2, len(slots), 4, length, 8)
        caches.fill(torch.tensor(slots), keys, keys)
    assert caches.cross_length.tolist() == [30, 0, 64, 64]


def test_the_bytes_of_a_slot_are_those_of_its_tensors() -> None:
    caches = _caches(room=MOST)
    tensors = (caches.cross_keys, caches.cross_values, caches.own_keys, caches.own_values)
    each = SlotCaches.bytes_per_slot(layers=2, heads=4, width=8, beams=3, room=MOST, dtype=torch.float32)
    assert each == sum(tensor.numel() * tensor.element_size() for tensor in tensors) // 4
