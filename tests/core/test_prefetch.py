"""Batches prepared ahead of their use, in order, and padded to one size."""

import threading
import time

import numpy as np
import pytest

from lib.core import prefetch


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_results_come_in_the_order_of_the_items(count, threads):
    def slow_for_even_numbers(number):
        time.sleep(0.01 * (number % 2 == 0))
        return number**2

    results = prefetch.in_order(slow_for_even_numbers, range(count), threads=threads, ahead=2)
    assert list(results) == [number**2 for number in range(count)]


def test_the_next_results_are_computed_while_one_is_in_use_and_no_more_than_asked_for():
    started, ready = [], threading.Event()

    def compute(number):
        started.append(number)
        if number == 2:
            ready.set()
        return number

    results = prefetch.in_order(compute, range(100), threads=1, ahead=2)
    assert next(results) == 0
    assert ready.wait(10) and started == [0, 1, 2]
    results.close()


def test_an_error_is_raised_at_its_place_and_ends_the_threads():
    before = threading.active_count()
    results = prefetch.in_order(lambda number: 1 / (2 - number), range(9), threads=2, ahead=4)
    assert next(results) == 0.5 and next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before


def test_closing_ends_the_threads_and_computes_no_more():
    computed, before = [], threading.active_count()
    results = prefetch.in_order(computed.append, range(1000), threads=1, ahead=3)
    next(results)
    results.close()
    assert threading.active_count() == before and len(computed) <= 4


def test_the_last_row_is_repeated():
    batch = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(prefetch.padded(batch, 5), [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]])
    assert prefetch.padded(batch, 3) is batch and prefetch.padded(batch.astype(np.uint8), 4).dtype == np.uint8
