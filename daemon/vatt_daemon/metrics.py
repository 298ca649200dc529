"""Figures for Prometheus, where `metrics.port` asks for them: `GET /metrics` on 127.0.0.1, in its text format.

Counts and names of models only: no ids, paths or prompts. A request that names another host than this machine is refused,
so that a page in a browser cannot read them through a name of its own (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vatt_client.replies import DONE, ENDED

LARGEST_REQUEST = 8192
PATIENCE = 5.0
"""Seconds that a request may take to arrive."""
_OWN_NAMES = ("127.0.0.1", "localhost")

Sample = tuple[Mapping[str, str], float]


class Metrics:
    """Counts what it hears of, and asks `look` for the answer to `status` when somebody wants the figures."""

    def __init__(self, look: Callable[[], Mapping[str, Any]], *, version: str) -> None:
        self._look = look
        self._version = version
        self._ends: Counter[tuple[str, str]] = Counter()
        self._seconds: Counter[str] = Counter()

    def heard(self, event: Mapping[str, Any]) -> None:
        """Take notice of an event as it is sent to watchers."""
        job = event.get("job")
        if event["event"] != "state" or job is None or job["state"] not in ENDED:
            return
        self._ends[job["kind"], job["state"]] += 1
        if job["state"] == DONE and job["started"] is not None:
            self._seconds[job["kind"]] += job["finished"] - job["started"]

    def text(self) -> str:
        """All figures in Prometheus' text format."""
        lines: list[str] = []
        for name, kind, meaning, samples in self._families():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {value:.17g}" for labels, value in samples]
        return "\n".join(lines) + "\n"

    def _families(self) -> Iterator[tuple[str, str, str, Sequence[Sample]]]:
        status = self._look()
        worker = status["worker"]
        processes = worker.get("workers", [])
        yield "vatt_info", "gauge", "Version of the daemon.", [({"version": self._version}, 1)]
        yield "vatt_uptime_seconds", "gauge", "Since the daemon's start.", [({}, status["uptime"])]
        yield "vatt_jobs_running", "gauge", "Jobs under way.", [({}, len(status["running"]))]
        yield "vatt_jobs_waiting", "gauge", "Jobs in the queue.", [({}, status["queued"])]
        stored = [({"state": state}, count) for state, count in status["counts"].items()]
        yield "vatt_jobs_stored", "gauge", "Jobs in the database.", stored
        ends = [({"kind": kind, "state": state}, count) for (kind, state), count in sorted(self._ends.items())]
        yield "vatt_job_ends_total", "counter", "Jobs that have ended since the start.", ends
        seconds = [({"kind": kind}, value) for kind, value in sorted(self._seconds.items())]
        yield "vatt_job_seconds_total", "counter", "Time from begin to end of the jobs that were done.", seconds
        up = [({"device": process["device"]}, float(process["pid"] is not None)) for process in processes]
        yield "vatt_worker_up", "gauge", "Whether the worker process runs.", up
        yield "vatt_worker_starts_total", "counter", "Worker processes started.", [({}, worker.get("starts", 0))]
        yield "vatt_worker_deaths_total", "counter", "Worker processes that died.", [({}, worker.get("deaths", 0))]
        pause = worker.get("waits_before_restart", 0)
        yield "vatt_worker_pause_seconds", "gauge", "Until a worker starts again after many deaths.", [({}, pause)]
        loaded = [({"model": model}, 1.0) for model in worker.get("models", [])]
        yield "vatt_model_loaded", "gauge", "Models in memory.", loaded
        yield "vatt_watchers", "gauge", "Watches that stand.", [({}, status["watchers"])]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One HTTP request; the connection ends with its answer."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            state, body = self._respond(head.decode("latin-1"))
            writer.write(
                f"HTTP/1.1 {state}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await asyncio.wait_for(writer.drain(), PATIENCE)
        writer.close()

    def _respond(self, head: str) -> tuple[str, bytes]:
        request, *fields = head.split("\r\n")
        host = next(
            (value for name, _, value in (field.partition(":") for field in fields) if name.lower() == "host"), ""
        )
        if host.strip().rpartition(":")[0] not in _OWN_NAMES and host.strip() not in _OWN_NAMES:
            return "403 Forbidden", b"Only as 127.0.0.1 or localhost.\n"
        method, _, rest = request.partition(" ")
        if method != "GET":
            return "405 Method Not Allowed", b"Only GET.\n"
        if rest.partition(" ")[0].partition("?")[0] != "/metrics":
            return "404 Not Found", b"Only /metrics.\n"
        return "200 OK", self.text().encode()

    async def serve(self, port: int) -> asyncio.Server:
        """Listen on 127.0.0.1. Raises OSError."""
        return await asyncio.start_server(self.answer, "127.0.0.1", port, limit=LARGEST_REQUEST)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
