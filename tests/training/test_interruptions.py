"""Signals as requests: which of them is remembered, what they give up, what is finished first, what is put back."""

import signal
import threading

import pytest

from worldmodel.training.interruptions import SIGNALS, AbandonedError, Interruptions, StoppedError

INT, TERM = SIGNALS


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


def test_the_first_signal_is_a_request_and_the_second_ends_it_at_once():
    with Interruptions() as interruptions:
        assert not interruptions.requested
        signal.raise_signal(INT)
        assert (interruptions.signal, interruptions.requested, interruptions.terminated) == (INT, True, False)
        with pytest.raises(StoppedError) as stopped:
            signal.raise_signal(TERM)
    assert stopped.value.signal == TERM and not isinstance(stopped.value, AbandonedError)
    assert interruptions.signal == INT  # the first one


def test_nested_blocks_put_the_handlers_back_when_the_outermost_ends():
    before = handlers()
    interruptions = Interruptions()
    with interruptions:
        own = handlers()
        with interruptions:
            pass
        assert handlers() == own != before
    assert handlers() == before
    with pytest.raises(ZeroDivisionError), interruptions:
        raise ZeroDivisionError
    assert handlers() == before


def test_in_another_thread_nothing_is_ever_requested():
    before, within = handlers(), []

    def work():
        with Interruptions() as interruptions:
            within.append((handlers(), interruptions.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert within == [(before, False)]


def test_work_is_given_up_by_the_signals_that_it_names_and_by_no_other():
    with Interruptions() as interruptions:
        with interruptions.abandoning(TERM):
            signal.raise_signal(INT)
        assert interruptions.requested
    with Interruptions() as interruptions:
        with pytest.raises(AbandonedError), interruptions.abandoning(TERM):
            signal.raise_signal(TERM)
            pytest.fail("the work went on")
        assert interruptions.terminated
        with pytest.raises(AbandonedError), interruptions.abandoning(INT, TERM):
            pytest.fail("work began though its signal had come before")
        with interruptions.abandoning(INT):
            pass


def test_work_within_work_is_given_up_by_its_own_signals_and_then_again_by_the_outer_ones():
    with Interruptions() as interruptions, pytest.raises(AbandonedError), interruptions.abandoning(TERM):
        with interruptions.abandoning(INT):
            pass
        signal.raise_signal(TERM)
        pytest.fail("the outer work went on")


def test_what_is_held_is_finished_before_the_work_is_given_up():
    written = []
    with Interruptions() as interruptions, pytest.raises(AbandonedError), interruptions.abandoning(TERM):
        with interruptions.holding():
            signal.raise_signal(TERM)
            written.append("whole")
        pytest.fail("the work went on")
    assert written == ["whole"]


def test_an_error_in_what_is_held_is_the_error_that_is_seen_and_nothing_is_held_after_it():
    with Interruptions() as interruptions:
        with pytest.raises(OSError, match="no room"), interruptions.holding():
            raise OSError("no room")
        with pytest.raises(AbandonedError), interruptions.abandoning(TERM):
            signal.raise_signal(TERM)
            pytest.fail("the work went on")


@pytest.mark.parametrize(("came", "still"), [(None, (INT, TERM)), (INT, (TERM,)), (TERM, (TERM,))])
def test_a_ctrl_c_that_ended_the_training_does_not_give_up_what_comes_after(came, still):
    with Interruptions() as interruptions:
        if came:
            signal.raise_signal(came)
        assert interruptions.still_to_come == still


@pytest.mark.parametrize(
    ("own", "greatest", "agreed"), [(None, 0, None), (INT, 2, INT), (None, 2, INT), (INT, 15, TERM), (TERM, 15, TERM)]
)
def test_processes_agree_on_the_greatest_signal_of_all(own, greatest, agreed):
    interruptions, told = Interruptions(), []
    interruptions.signal = own
    assert interruptions.agreed(lambda number: told.append(number) or greatest) == greatest
    assert interruptions.signal == agreed and told == [own or 0]


def test_processes_may_agree_on_another_reason_which_is_no_signal():
    interruptions, told = Interruptions(), []
    assert interruptions.agreed(lambda number: told.append(number) or number, instead=63) == 63
    assert told == [63] and interruptions.signal is None


def test_a_sigterm_that_may_be_passed_on_repeats_the_request_and_follows_ctrl_c():
    with Interruptions(passed_on=True) as interruptions:
        signal.raise_signal(INT)
        signal.raise_signal(TERM)
        signal.raise_signal(TERM)
        assert interruptions.terminated
        with pytest.raises(StoppedError):
            signal.raise_signal(INT)
