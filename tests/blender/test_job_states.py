"""The life of a request, and what a late word from the daemon may change."""

from __future__ import annotations

import pytest
from vatt_sequencer.jobs import GENERATE, Job, State, WrongTurn
from vatt_sequencer.targets import Target


@pytest.fixture
def job() -> Job:
    return Job(GENERATE, Target("a", "Scene", "film", "/film.mp4"), 0, 100, {})


def test_usual_life(job: Job) -> None:
    job.turn(State.QUEUED)
    job.progress("look", 3, 12, 4.0)
    assert (job.state, job.fraction) == (State.RUNNING, 0.25)
    job.turn(State.PLACING)
    job.turn(State.DONE)
    assert job.ended and job.fraction == 1


def test_daemon_that_restarts_puts_it_back(job: Job) -> None:
    job.turn(State.QUEUED)
    job.progress("look", 3, 12, None)
    job.turn(State.QUEUED)
    assert (job.stage, job.total) == ("", 0)


def test_strip_that_comes_back_gets_its_sound(job: Job) -> None:
    for state in (State.QUEUED, State.PLACING, State.HOMELESS, State.DONE):
        job.turn(state)
    assert job.ended


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED])
def test_what_has_ended_stays_so(job: Job, end: State) -> None:
    job.turn(end, "why")
    job.progress("look", 1, 2, None)
    assert (job.state, job.message) == (end, "why")
    for state in State:
        with pytest.raises(WrongTurn):
            job.turn(state)
