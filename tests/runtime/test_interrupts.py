"""Signals during a training step: the first one is noted, the second one stops."""

import signal

import pytest

from limner.runtime.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_stops(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        assert not interrupts.is_interrupted
        signal.raise_signal(number)
        assert interrupts.is_interrupted
        assert "finishing this step, then saving" in capsys.readouterr().err
        signal.raise_signal(number)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
