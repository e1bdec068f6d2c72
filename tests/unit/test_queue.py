"""The removable heap, against a sorted list."""

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qorzen_obs.scheduling.queue import RemovableHeap

keys = st.sampled_from([-math.inf, -5.0, 0.0, 0.5, 1.0, math.inf]) | st.floats(allow_nan=False)


class HeapMachine(RuleBasedStateMachine):
    """Push, pop and remove in any order; the model is a list that is sorted each time."""

    def __init__(self) -> None:
        super().__init__()
        self.heap: RemovableHeap[str] = RemovableHeap()
        self.model: list[tuple[float, int, str]] = []
        self.entries: dict[int, list[object]] = {}
        self.sequence = 0

    @rule(key=keys)
    def push(self, key: float) -> None:
        self.sequence += 1
        item = f"item {self.sequence}"
        self.entries[self.sequence] = self.heap.push(key, self.sequence, item)
        self.model.append((key, self.sequence, item))
        self.model.sort(key=lambda entry: entry[:2])

    @precondition(lambda self: self.model)
    @rule()
    def pop(self) -> None:
        assert self.heap.pop() == self.model.pop(0)[2]

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.entries)))
        alive = [entry for entry in self.model if entry[1] == sequence]
        assert self.heap.remove(self.entries[sequence]) is bool(alive)
        for entry in alive:
            self.model.remove(entry)

    @invariant()
    def the_first_is_the_models_first(self) -> None:
        assert len(self.heap) == len(self.model)
        assert bool(self.heap) is bool(self.model)
        assert self.heap.peek() == (self.model[0][2] if self.model else None)
        assert self.heap.first_key == (self.model[0][0] if self.model else None)

    @invariant()
    def memory_follows_what_is_alive(self) -> None:
        assert len(self.heap._entries) <= 2 * len(self.model) + 64


TestHeap = HeapMachine.TestCase
TestHeap.settings = hypothesis_settings(max_examples=30, stateful_step_count=50, deadline=None)


@given(st.lists(keys, max_size=100), st.randoms(use_true_random=False))
def test_what_is_left_after_removals_comes_out_in_order(key_list: list[float], random: Any) -> None:
    heap: RemovableHeap[int] = RemovableHeap()
    entries = [heap.push(key, sequence, sequence) for sequence, key in enumerate(key_list)]
    removed = {index for index in range(len(entries)) if random.random() < 0.5}
    for index in removed:
        assert heap.remove(entries[index])
    left = sorted((key, sequence) for sequence, key in enumerate(key_list) if sequence not in removed)
    assert [heap.pop() for _ in range(len(heap))] == [sequence for _, sequence in left]


@pytest.mark.parametrize("seed", range(10))
def test_order_survives_the_sweeping_out_of_many_removed_ones(seed: int) -> None:
    random = Random(seed)
    heap: RemovableHeap[int] = RemovableHeap()
    key_list = [random.random() for _ in range(400)]
    entries = [heap.push(key, sequence, sequence) for sequence, key in enumerate(key_list)]
    removed = set(random.sample(range(400), 300))
    for index in removed:
        heap.remove(entries[index])
    left = sorted((key, sequence) for sequence, key in enumerate(key_list) if sequence not in removed)
    assert [heap.pop() for _ in range(100)] == [sequence for _, sequence in left]


def test_items_are_never_compared() -> None:
    heap: RemovableHeap[object] = RemovableHeap()
    items = [object(), object()]
    for sequence, item in enumerate(items):
        heap.push(1.0, sequence, item)
    assert [heap.pop(), heap.pop()] == items


def test_an_empty_heap_says_so() -> None:
    heap: RemovableHeap[int] = RemovableHeap()
    assert (len(heap), heap.peek(), heap.first_key) == (0, None, None)
    with pytest.raises(IndexError):
        heap.pop()


def test_ten_thousand_removals_leave_no_memory_behind() -> None:
    heap: RemovableHeap[int] = RemovableHeap()
    entries = [heap.push(float(number % 97), number, number) for number in range(10_000)]
    for entry in entries[:-1]:
        assert heap.remove(entry)
        assert not heap.remove(entry)
    assert heap.pop() == 9_999
    assert len(heap._entries) == 0
