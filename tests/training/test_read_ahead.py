import threading

import pytest
import torch

from worldmodel.data.random_batch import random_batch
from worldmodel.training.read_ahead import ReadAhead
from worlds import VECTOR_SPEC


def draw(generator, update=0):
    return random_batch(VECTOR_SPEC, 2, 3, generator)


def generator():
    return torch.Generator().manual_seed(3)


def test_what_is_drawn_ahead_is_what_is_drawn_in_line_and_the_state_is_that_of_what_was_used():
    in_line, mine = generator(), generator()
    with ReadAhead(draw, mine) as batches:
        for ahead in (False, True, True, False, True, False, False, True):
            assert torch.equal(batches.next(0, ahead=ahead).reward, draw(in_line).reward)
            assert torch.equal(mine.get_state(), in_line.get_state())
    assert torch.equal(draw(mine).reward, draw(in_line).reward)  # the one that was still ahead is drawn again


def test_the_next_batch_is_drawn_while_the_one_before_is_used_and_only_if_asked_for():
    drawn = [threading.Event() for _ in range(4)]
    left = iter(drawn)

    def telling(generator, update):
        next(left).set()
        return draw(generator)

    with ReadAhead(telling, generator()) as batches:
        batches.next(0, ahead=True)
        assert drawn[1].wait(30) and not drawn[2].is_set()  # one ahead, not two
        batches.next(0, ahead=False)
    assert not drawn[2].is_set()


def test_a_batch_is_drawn_for_its_own_update_ahead_or_not():
    drawn = []

    def numbered(generator, update):
        drawn.append(update)
        return draw(generator)

    with ReadAhead(numbered, generator()) as batches:
        for update, ahead in enumerate((True, True, False, True, False), 5):
            batches.next(update, ahead=ahead)
    assert drawn == [5, 6, 7, 8, 9]


def test_an_error_in_the_thread_comes_with_the_batch_that_it_belongs_to():
    calls = []

    def failing(generator, update):
        calls.append(threading.current_thread())
        if len(calls) == 2:
            raise ValueError("row 7 is not as it was written")
        return draw(generator)

    mine = generator()
    with ReadAhead(failing, mine) as batches:
        batches.next(0, ahead=True)
        before = mine.get_state()
        with pytest.raises(ValueError, match=r"^row 7 is not as it was written$"):
            batches.next(0, ahead=True)
    assert calls[1] is not threading.main_thread() and len(calls) == 2
    assert torch.equal(mine.get_state(), before)


def test_leaving_waits_for_the_thread_and_drops_what_it_had_begun_and_its_error():
    begun, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def slow(generator, update):
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            go_on.wait(30)
            over.set()
            raise ValueError("nobody asked for this batch")
        return draw(generator)

    with pytest.raises(KeyboardInterrupt), ReadAhead(slow, generator()) as batches:
        batches.next(0, ahead=True)
        assert begun.wait(30)
        threading.Timer(0.05, go_on.set).start()
        raise KeyboardInterrupt
    assert over.is_set() and not any(thread.name.startswith("batches") for thread in threading.enumerate())
