"""Opening somebody else's media file: checks before, closed doors while, plain errors after."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import av.container
import av.error

from vatt_core.errors import BadMedia, BadRequest, ForbiddenPath, InputNotVisible, LimitsExceeded, VattError

PathLike = str | os.PathLike[str]

_VIDEO_FORMATS = (
    "3gp,apng,asf,av1,avi,dirac,dv,flv,gif,gxf,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,"
    "nut,obu,ogg,rm,vc1,vvc,webm,wtv,yuv4mpegpipe"
)
_SOUND_FORMATS = "aac,ac3,aiff,amr,ape,au,caf,eac3,flac,mp3,rf64,tta,w64,wav,wv"
# Pictures are opened only to be able to say that they are pictures.
_PICTURE_FORMATS = (
    "bmp_pipe,dpx_pipe,exr_pipe,gif_pipe,hdr_pipe,j2k_pipe,jpeg_pipe,jpegls_pipe,jpegxl_pipe,pam_pipe,pbm_pipe,"
    "pcx_pipe,pgm_pipe,pgmyuv_pipe,png_pipe,ppm_pipe,psd_pipe,qoi_pipe,sgi_pipe,sunrast_pipe,tiff_pipe,"
    "webp_pipe,xbm_pipe,xpm_pipe"
)

# What the library raises on damaged files; IndexError where a file grows streams while it is read.
DECODING_ERRORS = (av.error.FFmpegError, OSError, ValueError, IndexError)


@dataclass(frozen=True)
class MediaLimits:
    """What is read at most, so that a hostile or mistaken file cannot take the machine.

    file_bytes: size of the file. pixels: width times height of a stored picture (8192 x 8192 holds 8K of any
    shape). source_seconds: how much of the source one call decodes. decoded_frames: pictures decoded in one call.
    output_bytes: size of the array that one call returns. sound_seconds: how much sound is read.
    """

    file_bytes: int = 1 << 40
    pixels: int = 8192 * 8192
    source_seconds: int = 4 * 3600
    decoded_frames: int = 1_000_000
    output_bytes: int = 4 << 30
    sound_seconds: int = 4 * 3600


def existing_file(path: PathLike, limits: MediaLimits) -> Path:
    """The absolute path of a regular, readable file.

    Raises InputNotVisible (no such file, a directory, no regular file), ForbiddenPath (no permission),
    BadMedia (empty), LimitsExceeded (too large), BadRequest (no path at all).
    """
    try:
        found = Path(path).expanduser().absolute()
        status = found.stat()
    except (TypeError, ValueError, RuntimeError):
        raise BadRequest(f"{path!r} is no path of a file. Name a video file.") from None
    except PermissionError:
        raise ForbiddenPath(f"{path} may not be read: a folder above it is closed to you. Change its rights.") from None
    except OSError as error:
        raise InputNotVisible(f"There is no file {path}. Check the name and the folder. ({error.strerror})") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputNotVisible(f"{path} is a folder. Name one video file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise InputNotVisible(f"{path} is no ordinary file (a device or a pipe). Name a video file.")
    if not os.access(found, os.R_OK):
        raise ForbiddenPath(f"{path} may not be read. Give yourself the right to read it.")
    if status.st_size == 0:
        raise BadMedia(f"{path} is empty (0 bytes). Copy or export it again.")
    if status.st_size > limits.file_bytes:
        raise LimitsExceeded(
            f"{path} has {status.st_size} bytes, at most {limits.file_bytes} are read. Cut a shorter clip from it."
        )
    return found


@contextmanager
def open_input(
    path: PathLike, limits: MediaLimits | None = None, *, complete_times: bool = False
) -> Iterator[av.container.InputContainer]:
    """Open a media file for reading, with the playlist formats and every protocol but `file` switched off.

    A file that only names other files (a playlist, an ffconcat list), whatever its extension, opens nothing.
    complete_times: let the library work out packet times that the container leaves out.
    Raises what existing_file raises, and BadMedia where the file is no media file.
    """
    limits = limits or MediaLimits()
    found = existing_file(path, limits)
    options = {
        "format_whitelist": ",".join((_VIDEO_FORMATS, _SOUND_FORMATS, _PICTURE_FORMATS)),
        "protocol_whitelist": "file",
        "max_pixels": str(limits.pixels),
    }
    if complete_times:
        options["fflags"] = "+genpts"
    try:
        container = av.open(os.fspath(found), "r", options=options, metadata_errors="replace")
    except UnicodeEncodeError:
        raise BadRequest(f"The name {os.fspath(path)!r} cannot be written as UTF-8. Rename the file.") from None
    except PermissionError:
        raise ForbiddenPath(f"{path} may not be read. Give yourself the right to read it.") from None
    except FileNotFoundError:
        raise InputNotVisible(f"There is no file {path}. Check the name and the folder.") from None
    except av.error.ArgumentError:
        if _is_jpeg(found):
            raise still_picture(path) from None
        raise BadMedia(
            f"{path} is no video file that is read here (a list of other files is none). "
            "Export the clip as .mp4 or .mov."
        ) from None
    except DECODING_ERRORS as error:
        raise BadMedia(f"{path} cannot be read as a video: {_reason(error)}. Copy or export it again.") from None
    with container:
        yield container


def _is_jpeg(found: Path) -> bool:
    """Whether a file is a JPEG. Named as one it is taken for a numbered sequence of files, which is opened nowhere."""
    with found.open("rb") as file:
        return file.read(3) == b"\xff\xd8\xff"


def still_picture(path: PathLike) -> BadMedia:
    """The error for a file that shows one picture for ever."""
    return BadMedia(f"{path} is a still picture. Name a video: sound is made for what moves.")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:] if text else type(error).__name__


def open_decoder(stream: av.VideoStream | av.AudioStream, path: PathLike, limits: MediaLimits) -> None:
    """Bound the decoder of a freshly opened stream before its first packet. Raises BadMedia, LimitsExceeded."""
    if stream.codec_context is None:
        raise BadMedia(f"{path} is coded in a way that is not read here. Export it as H.264 in .mp4 or ProRes in .mov.")
    if isinstance(stream, av.VideoStream):
        decoder = stream.codec_context
        pixels = decoder.width * decoder.height
        if pixels > limits.pixels:
            raise LimitsExceeded(
                f"{path} has pictures of {decoder.width} x {decoder.height}, at most {limits.pixels} pixels are read. "
                "Export a smaller version."
            )
        # Streams may change their size on the way; the decoder itself has to refuse.
        decoder.options = {"max_pixels": str(limits.pixels)}
        stream.thread_type = "AUTO"


def damaged(path: PathLike, error: Exception) -> VattError:
    """The error for a file whose content the decoder refuses: BadMedia, or LimitsExceeded where it was refused memory."""
    if getattr(error, "errno", None) == errno.ENOMEM:
        return LimitsExceeded(f"{path} takes more memory to decode than is allowed (media.memory). Export it smaller.")
    return BadMedia(f"{path} is damaged and cannot be decoded: {_reason(error)}. Copy or export it again.")
