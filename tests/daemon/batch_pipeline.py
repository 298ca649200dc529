"""The scripted pipeline, with the side-cars that real takes have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripted_pipeline import GenerateRequest, Result, SuggestRequest
from scripted_pipeline import Pipeline as Scripted

from vatt_core.files import content_hash, fingerprint

__all__ = ["GenerateRequest", "Pipeline", "SuggestRequest"]


class Pipeline(Scripted):
    def generate(self, request: GenerateRequest, *, progress: Any, cancelled: Any) -> Result:
        result = super().generate(request, progress=progress, cancelled=cancelled)
        for take in result.values["takes"]:
            wav = Path(take["wav"])
            sidecar = wav.with_suffix(".json")
            body = {
                "wav": wav.name,
                "wav_sha256": content_hash(wav),
                "clip": {"fingerprint": fingerprint(request.path)},
            }
            sidecar.write_text(json.dumps(body))
            take["sidecar"] = str(sidecar)
        return result
