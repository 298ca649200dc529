"""Jobs that share a model: composed together, in their order, and with as little memory as there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vatt_daemon.gate import BATCH, CAPTIONS, SOUND, Gate, Turn, current
from vatt_daemon.shared import Shared, SharedPipeline
from vatt_daemon.shelf import Shelf

from vatt_core.errors import BadRequest, Cancelled, OutOfMemory
from vatt_core.pipeline import Pipeline

TIMING = SimpleNamespace(codebooks=1, code_frames=1, mask=-1)


class Counting:
    """Stands in for a pipeline on a device of `room` rows. A row's codes are its seed, as in a real one they depend on
    nothing else. While the language model is on the device, half of the room is gone."""

    def __init__(self, *, room: int = 1 << 30) -> None:
        self.timing, self.device = TIMING, torch.device("cuda")
        self.room = room
        self.batches: list[int] = []
        self.at_home = True
        self.hold: Callable[[], None] = lambda: None
        self.model = SimpleNamespace(converter=SimpleNamespace(to=self._move))

    def _move(self, device: Any) -> None:
        self.at_home = str(device) != "cpu"

    def sound_codes(self, features: Any, prompts: Any, *, seeds: Any, progress: Any, cancelled: Any, **_: Any) -> Any:
        self.condition(features, prompts)
        if len(prompts) > self.room // (2 if self.at_home else 1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        if "broken" in prompts:
            raise BadRequest("This prompt cannot be used.")
        self.batches.append(len(prompts))
        self.hold()
        for step in range(3):
            if cancelled():
                raise Cancelled("Stopped.")
            progress(step + 1, 3)
        return torch.tensor(seeds)[:, None, None]

    def condition(self, features: Any, prompts: Any) -> None:
        assert self.at_home

    def look(self, frames: int) -> int:
        if frames > self.room // (2 if self.at_home else 1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return frames


class SharedCounting(Shared, Counting):
    pass


class Jobs:
    """Threads that do what a worker's do."""

    def __init__(self, pipeline: SharedCounting, *, rows: int = 8, delay: float = 60.0) -> None:
        self.pipeline, self.gate, self.expected = pipeline, Gate(), 0
        pipeline.share(self.gate, rows=rows, delay=delay, on_their_way=lambda: self.expected)
        self.threads: list[threading.Thread] = []
        self.results: dict[str, Any] = {}

    def begin(self, name: str, seeds: list[int], *, rank: int = SOUND, stop: threading.Event | None = None,
              options: Any = "same", prompt: str = "rain") -> None:  # fmt: skip
        stop = stop or threading.Event()

        def cancelled() -> bool:
            turn = current()
            if turn is not None:
                turn.offer()
            return stop.is_set()

        def work() -> None:
            try:
                with Turn(self.gate, rank, stop.is_set).taken():
                    codes = self.pipeline.sound_codes(
                        torch.zeros(len(seeds), 1, 1), [prompt] * len(seeds), seeds=seeds, options=options,
                        progress=lambda done, total: self.results.setdefault(f"{name} steps", []).append(done),
                        cancelled=cancelled,
                    )  # fmt: skip
                self.results[name] = codes[:, 0, 0].tolist()
            except Exception as error:
                self.results[name] = error

        self.expected += 1
        thread = threading.Thread(target=work, daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self) -> dict[str, Any]:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        return self.results


def test_jobs_of_the_same_shape_go_through_together_and_get_their_own_codes() -> None:
    jobs = Jobs(SharedCounting())
    jobs.expected = 2
    for name, seeds in (("a", [1, 2]), ("b", [3]), ("c", [4, 5, 6])):
        jobs.begin(name, seeds)
    jobs.expected = 3
    results = jobs.join()
    assert {name: results[name] for name in "abc"} == {"a": [1, 2], "b": [3], "c": [4, 5, 6]}
    assert jobs.pipeline.batches == [6]
    assert all(results[f"{name} steps"] == [1, 2, 3] for name in "abc")


def test_other_settings_other_shapes_and_too_many_rows_go_by_themselves() -> None:
    jobs = Jobs(SharedCounting(), rows=4, delay=0.3)
    for name, options in (("a", "same"), ("b", "other"), ("c", "same"), ("d", "same")):
        jobs.begin(name, [1, 2], options=options)
    results = jobs.join()
    assert all(results[name] == [1, 2] for name in "abcd")
    assert sum(jobs.pipeline.batches) == 8 and max(jobs.pipeline.batches) <= 4


def test_one_that_is_cancelled_or_wrong_does_not_disturb_those_beside_it() -> None:
    jobs = Jobs(SharedCounting())
    stop, going = threading.Event(), threading.Event()
    jobs.expected = 3
    jobs.pipeline.hold = lambda: (stop.set(), going.wait(2))[0] if len(jobs.pipeline.batches) == 1 else None
    for name in "ab":
        jobs.begin(name, [1], stop=None)
    jobs.begin("stopped", [2], stop=stop)
    jobs.expected = 3
    end = time.monotonic() + 1
    while "stopped" not in jobs.results and time.monotonic() < end:
        time.sleep(0.01)
    going.set()
    results = jobs.join()
    assert isinstance(results["stopped"], Cancelled)
    assert results["a"] == results["b"] == [1]
    jobs = Jobs(SharedCounting())
    jobs.expected = 2
    jobs.begin("good", [1])
    jobs.begin("bad", [2], prompt="broken")
    jobs.expected = 2
    results = jobs.join()
    assert results["good"] == [1] and isinstance(results["bad"], BadRequest)


@pytest.mark.parametrize(("room", "batches", "swapped"), [(100, [8], False), (8, [4, 4], False), (2, [1] * 8, False),
                                                          (1, [1] * 8, True)])  # fmt: skip
def test_too_little_memory_makes_smaller_batches_then_moves_the_language_model(
    room: int, batches: list[int], swapped: bool
) -> None:
    pipeline = SharedCounting(room=room)
    codes = pipeline.sound_codes(torch.zeros(8, 1, 1), ["x"] * 8, seeds=list(range(8)))
    assert codes[:, 0, 0].tolist() == list(range(8))
    assert pipeline.batches == batches and pipeline.at_home != swapped
    pipeline.sound_codes(torch.zeros(1, 1, 1), ["x"], seeds=[0])  # the language model still comes when it is needed


def test_when_nothing_helps_the_error_has_figures() -> None:
    pipeline = SharedCounting(room=0)
    with pytest.raises(OutOfMemory) as caught:
        pipeline.sound_codes(torch.zeros(2, 1, 1), ["x"] * 2, seeds=[1, 2])
    assert {"free", "total", "swapped"} <= set(caught.value.details)
    assert SharedCounting(room=4).look(3) == 3
    with pytest.raises(OutOfMemory):
        SharedCounting(room=4).look(5)


def test_nothing_of_the_pipeline_is_hidden_by_accident() -> None:
    before = SharedPipeline.__mro__[1 : SharedPipeline.__mro__.index(Pipeline)]
    assert len(before) >= 2
    hidden = {name for kind in before for name in vars(kind) if hasattr(Pipeline, name)}
    # Those two are meant: Remembering answers them from the cache.
    assert {name for name in hidden if name.startswith("_") and not name.startswith("__")} == {
        "_part_features",
        "_watch",
    }


def test_turns_go_by_rank_and_the_more_urgent_comes_between_two_steps() -> None:
    gate, order = Gate(), []
    inside, go = threading.Event(), threading.Event()

    def batch() -> None:
        with (turn := Turn(gate, BATCH, lambda: False)).taken():
            inside.set()
            go.wait(60)
            order.append("batch, first step")
            turn.offer()
            order.append("batch, second step")

    def other(name: str, rank: int) -> None:
        with Turn(gate, rank, lambda: False).taken():
            order.append(name)

    threads = [threading.Thread(target=batch)]
    threads[0].start()
    inside.wait(60)
    for name, rank in (("batch 2", BATCH), ("sound", SOUND), ("captions", CAPTIONS)):
        threads.append(threading.Thread(target=other, args=(name, rank)))
        threads[-1].start()
    while len(gate._waiting) < 3:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join(60)
    assert order == ["batch, first step", "captions", "sound", "batch, second step", "batch 2"]


def test_batch_work_that_has_waited_for_long_takes_its_turn_like_interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vatt_daemon.gate.AGEING", 0.2)
    gate, order = Gate(), []
    with Turn(gate, SOUND, lambda: False).taken():

        def work(name: str, rank: int) -> None:
            with Turn(gate, rank, lambda: False).taken():
                order.append(name)

        threads = [threading.Thread(target=work, args=("batch", BATCH))]
        threads[0].start()
        while not gate._waiting:
            time.sleep(0.01)
        time.sleep(0.4)
        threads.append(threading.Thread(target=work, args=("sound", SOUND)))
        threads[1].start()
        while len(gate._waiting) < 2:
            time.sleep(0.01)
    for thread in threads:
        thread.join(60)
    assert order == ["batch", "sound"]


def test_a_job_that_waits_can_be_cancelled_and_one_that_is_away_leaves_its_place() -> None:
    gate, stop = Gate(), threading.Event()
    with (first := Turn(gate, SOUND, lambda: False)).taken():
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(Cancelled), Turn(gate, SOUND, stop.is_set).taken():
            raise AssertionError("two hold the device")
        with first.away():
            done = threading.Event()

            def second() -> None:
                with Turn(gate, BATCH, lambda: False).taken():
                    done.set()

            threading.Thread(target=second, daemon=True).start()
            assert done.wait(60)
        assert first.held


class Loads:
    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.told: list[list[str]] = []
        self.full = False

    def load(self, model: str) -> str:
        if self.full:
            self.full = False
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.loaded.append(model)
        return f"pipeline of {model}"

    def shelf(self, *, most: int = 2, keep_alive: float = 60.0) -> Shelf:
        return Shelf(self.load, most=most, keep_alive=keep_alive, free=lambda: None, changed=self.told.append)


def use(shelf: Shelf, model: str, keep_alive: float | None = None) -> Any:
    return shelf.borrowed(model, keep_alive=keep_alive, loading=lambda done: None,
                          is_full=lambda error: isinstance(error, torch.OutOfMemoryError))  # fmt: skip


def test_models_stay_for_a_while_and_go_only_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("vatt_daemon.shelf.time", SimpleNamespace(monotonic=lambda: now))
    loads = Loads()
    shelf = loads.shelf(keep_alive=20.0)
    with use(shelf, "a"), use(shelf, "a"):
        now += 30.0
        shelf.expire()
        shelf.unload(None)
        assert loads.told[-1] == ["a"]
    assert loads.told[-1] == []  # unload was asked for meanwhile
    with use(shelf, "a"):
        pass
    shelf.expire()
    assert loads.loaded == ["a", "a"] and loads.told[-1] == ["a"]
    now += 25.0
    shelf.expire()
    assert loads.told[-1] == []
    with use(shelf, "a", keep_alive=-1):
        pass
    now += 25.0
    shelf.expire()
    assert loads.told[-1] == ["a"]
    with use(shelf, "a", keep_alive=0):
        pass
    assert loads.told[-1] == []


def test_the_one_unused_for_longest_makes_room() -> None:
    loads = Loads()
    shelf = loads.shelf(most=2)
    for model in ("a", "b", "a", "c"):
        with use(shelf, model):
            pass
    assert loads.told[-1] == ["a", "c"]
    with use(shelf, "a"), use(shelf, "c"), use(shelf, "d"):
        assert sorted(loads.told[-1]) == ["a", "c", "d"]  # none of them can go
    loads.full = True
    with use(shelf, "e"):
        assert loads.told[-1] == ["e"]
