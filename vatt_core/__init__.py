"""VATT's model and media. Knows no sockets, no editors, no job queue."""

from vatt_core import torchvision_cure

torchvision_cure.install()
