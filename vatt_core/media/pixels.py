"""A decoded picture of any pixel format → upright RGB of a given size."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation
from numpy.typing import NDArray

from vatt_core.media.orientation import Orientation

_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_HD_HEIGHT, _HD_WIDTH = 720, 1280
_QUALITY = int(Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)


class PictureConverter:
    """Converts pictures to uint8 RGB [H, W, 3] of one size.

    size: (width, height) of the result, after turning. orientation: how stored pictures are turned.
    """

    def __init__(self, size: tuple[int, int], orientation: Orientation) -> None:
        self.size = size
        self._orientation = orientation
        self._stored = orientation.shown_size(size)

    def convert(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Full-range RGB; what is transparent lies over black."""
        if _has_alpha(frame):
            frame = _over_black(frame)
        return self._orientation.apply(_scaled(frame, *self._stored, "rgb24"))


def _scaled(frame: av.VideoFrame, width: int, height: int, pixel_format: str) -> NDArray[np.uint8]:
    colours: int | None = None
    if frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb:
        # Files that do not say: high definition is Rec. 709, everything below Rec. 601, as players take it.
        high = frame.height >= _HD_HEIGHT or frame.width >= _HD_WIDTH
        colours = int(Colorspace.ITU709 if high else Colorspace.ITU601)
    picture = frame.reformat(
        width=width, height=height, format=pixel_format, src_colorspace=colours, interpolation=_QUALITY, threads=1
    )
    return np.asarray(picture.to_ndarray(), np.uint8)


def _has_alpha(frame: av.VideoFrame) -> bool:
    pixel_format = frame.format
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


def _over_black(frame: av.VideoFrame) -> av.VideoFrame:
    """Multiply by alpha at the stored size: scaling first would mix the hidden colours into the edges."""
    rgba = _scaled(frame, frame.width, frame.height, "rgba").astype(np.uint16)
    colours = (rgba[..., :3] * rgba[..., 3:] + 127) // 255
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(colours, dtype=np.uint8), format="rgb24")
