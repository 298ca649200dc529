"""The thin client of the VATT daemon: the standard library, pyzmq and msgpack, nothing else.

from vatt_client import Client

with Client() as client:
    for caption in client.suggest("/clips/rain.mp4").captions:
        print(caption.score, caption.text)
    takes = client.generate("/clips/rain.mp4", output="/clips/sound", takes=2).takes
"""

from vatt_client.client import Client
from vatt_client.errors import ClientError
from vatt_client.messages import Generate, Suggest
from vatt_client.replies import Caption, Job, Progress, Suggestions, Take, Takes

__all__ = ["Caption", "Client", "ClientError", "Generate", "Job", "Progress", "Suggest", "Suggestions", "Take", "Takes"]
