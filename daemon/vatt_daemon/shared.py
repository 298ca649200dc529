"""A pipeline that many jobs share: what fits together goes through the model together, and too little memory is met
with smaller batches before anybody is told. Loaded in worker processes only; imports torch.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vatt_core.errors import Cancelled, OutOfMemory
from vatt_core.pipeline import GenerateRequest, Pipeline, SuggestRequest
from vatt_daemon.gate import POLL, Gate, Turn, current
from vatt_daemon.remembering import Remembering

__all__ = ["GenerateRequest", "Shared", "SharedPipeline", "SuggestRequest"]


@dataclass(eq=False)
class _Call:
    """The rows of one job that wait to be composed. key: what must be equal to go together."""

    key: tuple[Any, ...]
    features: Tensor
    prompts: list[str]
    seeds: list[int]
    negatives: list[str | None]
    known: Tensor
    options: Any
    progress: Callable[[int, int], None] | None
    cancelled: Callable[[], bool]
    more: dict[str, Any]
    taken: bool = False
    codes: Tensor | None = None
    error: Exception | None = None

    @property
    def ended(self) -> bool:
        return self.codes is not None or self.error is not None

    def step(self, done: int, total: int) -> None:
        """Tell this job's own progress; a cancelled one among others just stops listening."""
        if self.progress is not None and not self.cancelled():
            try:
                self.progress(done, total)
            except Cancelled:
                self.progress = None


class Shared:
    """Stands before a pipeline class: `class SharedPipeline(Shared, Pipeline)`. Without `share` it changes nothing but
    what happens when memory runs out: halves of the batch, then the language model kept in the machine's own memory
    between its uses, then OutOfMemory with figures.
    """

    _rows_at_once = 1 << 30
    _delay = 0.0
    _gate: Gate | None = None
    _swapped = False

    def share(self, gate: Gate, *, rows: int, delay: float, on_their_way: Callable[[], int]) -> None:
        """Let jobs of several threads go through the model together, up to `rows` rows.

        delay: seconds that one job waits for others. on_their_way: how many jobs under way may still come.
        """
        self._gate, self._rows_at_once, self._delay, self._on_their_way = gate, rows, delay, on_their_way
        self._pending: list[_Call] = []

    # ---- together ----------------------------------------------------------------------------------------------------

    def sound_codes(
        self,
        features: Tensor,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        options: Any = None,
        negative_prompts: Sequence[str | None] | None = None,
        known: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        **more: Any,
    ) -> Tensor:
        """As :meth:`Pipeline.sound_codes`, together with what other jobs ask for at the moment. What is asked for with
        `more` than these goes by itself."""
        rows = len(prompts)
        if known is None:
            timing = self.timing  # type: ignore[attr-defined]
            known = torch.full((rows, timing.codebooks, timing.code_frames), timing.mask, dtype=torch.int64)
        call = _Call(
            key=(options, tuple(known.shape[1:]), tuple(features.shape[1:]), *map(id, more.values())),
            more=more,
            features=features,
            prompts=list(prompts),
            seeds=list(seeds),
            negatives=list(negative_prompts) if negative_prompts is not None else [None] * rows,
            known=known,
            options=options,
            progress=progress,
            cancelled=cancelled or (lambda: False),
        )
        turn = current()
        if self._gate is None or turn is None:
            self._compose_calls([call])
        else:
            self._compose_with_others(call, self._gate, turn)
        if call.error is not None:
            raise call.error
        if call.cancelled():  # the others needed this thread to go on
            raise Cancelled("The job was cancelled.")
        assert call.codes is not None
        return call.codes

    def _compose_with_others(self, call: _Call, gate: Gate, turn: Turn) -> None:
        turn.leave()
        with gate.changed:
            self._pending.append(call)
            gate.changed.notify_all()
            end = time.monotonic() + self._delay
            while not call.taken and self._worth_waiting(call) and time.monotonic() < end:
                gate.changed.wait(min(POLL, self._delay))
        try:
            # Either this job leads the next batch, or another one has taken it along.
            if turn.take(unless=lambda: call.taken) and not call.taken:
                self._compose_calls(self._gather(call, gate))
                return
            turn.leave()
            with gate.changed:
                while not call.ended:
                    gate.changed.wait(POLL)
                    if call.cancelled():
                        raise Cancelled("The job was cancelled.")
            turn.take()
        finally:
            with gate.changed:
                if call in self._pending:
                    self._pending.remove(call)

    def _worth_waiting(self, call: _Call) -> bool:
        same = [other for other in self._pending if other.key == call.key]
        return len(same) < self._on_their_way() and sum(len(other.prompts) for other in same) < self._rows_at_once

    def _gather(self, first: _Call, gate: Gate) -> list[_Call]:
        with gate.changed:
            calls, rows = [first], len(first.prompts)
            for other in self._pending:
                if other is not first and other.key == first.key and rows + len(other.prompts) <= self._rows_at_once:
                    calls.append(other)
                    rows += len(other.prompts)
            for call in calls:
                call.taken = True
                self._pending.remove(call)
            return calls

    def _compose_calls(self, calls: list[_Call]) -> None:
        try:
            codes = self._in_pieces(calls)
            for call, own in zip(calls, codes.split([len(call.prompts) for call in calls]), strict=True):
                call.codes = own
        except Exception as error:
            if len(calls) == 1 or isinstance(error, Cancelled) or is_device_fault(error):
                for call in calls:
                    call.error = error
            else:
                for call in calls:  # the fault of one is not the others'
                    self._compose_calls([call])
        finally:
            if self._gate is not None:
                with self._gate.changed:
                    self._gate.changed.notify_all()

    # ---- with little memory --------------------------------------------------------------------------------------------

    def _in_pieces(self, calls: list[_Call]) -> Tensor:
        """Codes of all rows, in as many passes as the memory makes necessary."""
        features = torch.cat([call.features for call in calls])
        known = torch.cat([call.known for call in calls])
        prompts = [text for call in calls for text in call.prompts]
        seeds = [seed for call in calls for seed in call.seeds]
        negatives = [text for call in calls for text in call.negatives]

        def progress(done: int, total: int) -> None:
            for call in calls:
                call.step(done, total)

        def cancelled() -> bool:
            # Asked of every job: the thread that computes offers its turn meanwhile.
            return all([call.cancelled() for call in calls])

        codes: list[Tensor] = []
        first = 0
        while first < len(prompts):
            # What else was asked for may hold something for each row: that is not cut.
            rows = slice(first, first + (1 << 30 if calls[0].more else self._rows_at_once))
            try:
                made = super().sound_codes(  # type: ignore[misc]
                    features[rows],
                    prompts[rows],
                    seeds=seeds[rows],
                    options=calls[0].options,
                    negative_prompts=negatives[rows] if any(negatives[rows]) else None,
                    known=known[rows],
                    progress=progress,
                    cancelled=cancelled,
                    **calls[0].more,
                )
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                tried = len(prompts[rows])
            else:
                codes.append(made)
                first += len(made)
                continue
            # Outside of the handler, whose traceback keeps the tensors of the failed pass alive.
            free_memory()
            if tried > 1 and not calls[0].more:
                self._rows_at_once = (tried + 1) // 2
            elif not self._swap_out():
                raise self._exhausted("composing one take of one window")
        return torch.cat(codes)

    def look(self, *arguments: Any, **options: Any) -> Any:
        return self._sparing("looking at the clip", super().look, *arguments, **options)  # type: ignore[misc]

    def sound(self, *arguments: Any, **options: Any) -> Any:
        return self._sparing("decoding the sound", super().sound, *arguments, **options)  # type: ignore[misc]

    def caption(self, *arguments: Any, **options: Any) -> Any:
        return self._sparing("writing captions", self._visiting, super().caption, *arguments, **options)  # type: ignore[misc]

    def condition(self, *arguments: Any, **options: Any) -> Any:
        return self._visiting(super().condition, *arguments, **options)  # type: ignore[misc]

    def _sparing(self, what: str, step: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        while True:
            try:
                return step(*arguments, **options)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            free_memory()
            if not self._swap_out():
                raise self._exhausted(what)

    def _visiting(self, step: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Run a step of the language model, which comes to the device for it where it does not live there."""
        if not self._swapped:
            return step(*arguments, **options)
        converter = self.model.converter  # type: ignore[attr-defined]
        try:
            converter.to(self.device)  # type: ignore[attr-defined]
            return step(*arguments, **options)
        finally:
            converter.to("cpu")
            empty_cache()

    def _swap_out(self) -> bool:
        """Keep the language model off the device between its uses. False: it is already, or there is no other place."""
        if self._swapped or self.device.type == "cpu":  # type: ignore[attr-defined]
            return False
        self._swapped = True
        self.model.converter.to("cpu")  # type: ignore[attr-defined]
        free_memory()
        return True

    def _exhausted(self, what: str) -> OutOfMemory:
        free, total = memory(self.device)  # type: ignore[attr-defined]
        return OutOfMemory(
            f"There is not enough memory for {what}: {free >> 20} MiB of {total >> 20} MiB are free. Use a shorter "
            "range or a smaller model, or close other programs.",
            free=free,
            total=total,
            swapped=self._swapped,
        )


class SharedPipeline(Remembering, Shared, Pipeline):
    """The pipeline of a worker process."""


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def is_device_fault(error: BaseException) -> bool:
    """Whether nothing that this process computes can be trusted any more."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    said = str(error)
    return any(sign in said for sign in ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "device-side"))


def free_memory() -> None:
    gc.collect()
    empty_cache()


def empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes of the device that a model runs on."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.mem_get_info(device)
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page
    except (AttributeError, ValueError, OSError):
        return 0, 0
