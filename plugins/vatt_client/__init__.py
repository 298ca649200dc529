"""The thin client of the VATT daemon: the standard library, pyzmq and msgpack, nothing else.

from vatt_client import Client

with Client() as client:
    for caption in client.suggest("/clips/rain.mp4").captions:
        print(caption.score, caption.text)
    takes = client.generate("/clips/rain.mp4", output="/clips/sound", takes=2).takes

`AsyncClient` has the same methods for asyncio.
"""

from typing import TYPE_CHECKING, Any

from vatt_client.client import Client
from vatt_client.errors import ClientError
from vatt_client.messages import Batch, Generate, Suggest
from vatt_client.replies import BatchItem, BatchReport, Caption, Job, Progress, Suggestions, Take, Takes

if TYPE_CHECKING:
    from vatt_client.asyncio_client import AsyncClient

__all__ = [
    "AsyncClient",
    "Batch",
    "BatchItem",
    "BatchReport",
    "Caption",
    "Client",
    "ClientError",
    "Generate",
    "Job",
    "Progress",
    "Suggest",
    "Suggestions",
    "Take",
    "Takes",
]


def __getattr__(name: str) -> Any:
    if name != "AsyncClient":
        raise AttributeError(f"module 'vatt_client' has no attribute '{name}'")
    # Imported when it is used: asyncio takes longer to import than all the rest of the client.
    from vatt_client.asyncio_client import AsyncClient

    return AsyncClient
