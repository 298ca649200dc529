"""Public names that plugins, scripts and the daemon rely on. Adding is free; what stands here is changed on purpose only."""

from __future__ import annotations

import dataclasses
import importlib
import inspect

import pytest
import vatt_client
from vatt_client import messages

NAMES = {
    "vatt_client.errors": "BadMedia BadModel BadRequest Busy Cancelled ClientError ConnectionProblem DaemonLost "
    "DaemonNotRunning DaemonTimeout DiskFull ForbiddenPath InputNotVisible Internal LimitsExceeded NotFound OutOfMemory "
    "Unauthorised UnsupportedVersion WorkerCrash WrongKey",
    "vatt_client.replies": "BatchItem BatchReport Caption DaemonStatus Job Pong Progress Suggestions Take Takes Welcome",
    "vatt_core.errors": "BadMedia BadModel BadRequest Cancelled DiskFull ForbiddenPath InputNotVisible LimitsExceeded "
    "NotFound OutOfMemory VattError",
    "vatt_core.requests": "ClipRequest GenerateRequest GenerateResult SuggestRequest SuggestResult Suggestion Take",
    "vatt_core.sidecar": "read_sidecar request_from_sidecar",
    "vatt_core.timing": "Timing duration_samples",
    "vatt_core.windows": "Window plan_windows",
    "vatt_core.weights": "find_model list_models model_hash",
    "vatt_core.media.time_map": "TimeMap exact_seconds",
    "vatt_core.media.probe": "ClipInfo clip_range probe",
    "vatt_core.media.frames": "read_frames",
    "vatt_core.media.waves": "fit_length read_wave resample write_wave",
    "vatt_core.media.loudness": "edge_fades integrated_loudness normalise",
    "vatt_core.media.mux": "mux_sound muxed_suffix",
    "vatt_core.media.preview": "write_preview",
    "vatt_core.media.timecode": "time_reference",
    "vatt_core.world.scene": "Scene describe split_seed",
    "vatt_core.world.sound": "synthesise",
    "vatt_core.world.write": "compressed_frames write_clip write_world",
    "vatt_core.pipeline": "GenerateRequest Pipeline SuggestRequest request_from_sidecar",
}

PIPELINE = {
    "load": ("model", "device"),
    "look": ("frames",),
    "caption": ("features", "count", "seed"),
    "condition": ("features", "prompts"),
    "sound_codes": ("features", "prompts", "seeds", "options", "negative_prompts", "known", "progress", "cancelled"),
    "sound": ("codes",),
    "suggest": ("request", "progress", "cancelled"),
    "generate": ("request", "progress", "cancelled"),
}

CLIENT = {
    "hello": (),
    "ping": ("timeout",),
    "status": (),
    "models": (),
    "unload": ("model",),
    "get": ("job", "history"),
    "list": ("states", "limit", "batch", "results"),
    "cancel": ("job",),
    "shutdown": (),
    "submit": ("message",),
    "wait": ("job", "on_progress", "timeout"),
    "watch": ("jobs", "on_progress", "timeout"),
    "watch_all": ("on_progress",),
    "batch": ("items", "on_progress", "timeout", "options"),
    "submit_batch": ("items", "options"),
    "report": ("batch",),
    "suggest": ("path", "on_progress", "timeout", "options"),
    "generate": ("path", "output", "on_progress", "timeout", "options"),
    "run": ("message", "on_progress", "timeout"),
    "close": (),
}

SUBMISSION = "path start end time_map model seed priority deadline idempotency_key"
FIELDS = {
    messages.Suggest: f"{SUBMISSION} count temperature",
    messages.Generate: f"{SUBMISSION} output prompt negative_prompt takes sample_rate bits guidance_scale steps "
    "temperature mask_temperature top_k loudness preview",
}


@pytest.mark.parametrize("module", NAMES)
def test_modules_offer_their_names(module: str) -> None:
    offered = vars(importlib.import_module(module))
    assert [name for name in NAMES[module].split() if name not in offered] == []


def test_the_client_package_offers_these_and_no_more() -> None:
    assert sorted(vatt_client.__all__) == [
        "AsyncClient", "Batch", "BatchItem", "BatchReport", "Caption", "Client", "ClientError", "Generate", "Job",
        "Progress", "Suggest", "Suggestions", "Take", "Takes",
    ]  # fmt: skip
    assert all(hasattr(vatt_client, name) for name in vatt_client.__all__)


def parameters(owner: type, method: str) -> list[str]:
    found = inspect.signature(getattr(owner, method)).parameters
    return [name for name in found if name not in ("self", "cls")]


@pytest.mark.parametrize("method", CLIENT)
def test_the_client_keeps_its_methods(method: str) -> None:
    assert [name for name in CLIENT[method] if name not in parameters(vatt_client.Client, method)] == []
    assert parameters(vatt_client.Client, method) == parameters(vatt_client.AsyncClient, method)


@pytest.mark.parametrize("method", PIPELINE)
def test_the_pipeline_keeps_its_methods(method: str) -> None:
    from vatt_core.pipeline import Pipeline

    assert [name for name in PIPELINE[method] if name not in parameters(Pipeline, method)] == []


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.TYPE)
def test_messages_keep_their_fields(kind: type[messages.Message]) -> None:
    offered = {field.name for field in dataclasses.fields(kind)}
    assert set(FIELDS[kind].split()) <= offered
