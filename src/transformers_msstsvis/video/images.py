"""The one way from an image file to a frame, for inference, training and every check of data alike.

A frame is what a viewer shows: turned as the EXIF tag says, RGB, uint8 `(H, W, 3)`, alpha dropped.
"""

from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import PIL.Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif")

_BY_CONTENT = ("PNG", "WEBP", "TIFF", "AVIF")
_ORIENTATION = 0x0112  # EXIF
_SIDEWAYS = (5, 6, 7, 8)  # its values that swap height and width
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_KEYS = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # of texts that tell the orientation
_LONGEST_KEY = max(map(len, _PNG_KEYS))
_TWELVE_BITS = 2**12
_SIXTEEN_BITS = 2**16


_TOO_DARK = (
    "it has 16 bits, but no pixel above {}: at the full range of 65535 it would be almost black; scale its values and "
    "save it with 8 bits a channel"
)


class ImageError(ValueError):
    """An image that cannot be used as a frame; the message says why, without its name."""


def read_image(image: "str | PathLike | BinaryIO | PIL.Image.Image") -> np.ndarray:
    """
    One frame.

    Sixteen bits of grey become eight by the full range, 65535 to 255, as those of colour images do.

    Args:
        image: a file, an open one, or a PIL image.

    Returns:
        uint8 `(H, W, 3)` RGB.

    Raises:
        FileNotFoundError: when there is no such file.
        ImageError: for what is no image or is damaged; for an animation or several pages; for floats and for integers
            without a range that is known, which would come out black or white.
    """
    with _opened(image) as picture:
        _refuse_several(picture)
        return _frame(picture)


def read_images(image: "str | PathLike | BinaryIO") -> "Iterator[np.ndarray | ImageError]":
    """
    The pictures of an animation (WebP, APNG, GIF, AVIF) or of a file with pages (TIFF), in order, each as of
    [`read_image`]; in the place of one that cannot be used, the error that says why.

    Raises:
        FileNotFoundError, ImageError: as [`read_image`], where the file is damaged.
    """
    with _opened(image) as picture:
        for number in _numbers(picture):
            picture.seek(number)
            try:
                frame = _frame(picture)
            except ImageError as error:
                frame = error
            yield frame


def count_images(image: "str | PathLike | BinaryIO") -> tuple[int, float | None]:
    """
    How many pictures a file holds, and for how many milliseconds one is shown on the mean, None where it does not say.

    Raises:
        FileNotFoundError, ImageError: as [`read_image`].
    """
    with _opened(image) as picture:
        numbers = _numbers(picture)
        if len(numbers) == 1 or picture.format == "TIFF":
            return len(numbers), None
        durations = []
        for number in numbers:
            picture.seek(number)
            picture.load()  # WebP tells the duration of a picture with its pixels
            durations.append(picture.info.get("duration", 0))
        return len(numbers), sum(durations) / len(durations) or None


def is_image(path: str | PathLike) -> bool:
    """
    Whether a file is one or several images by its content, whatever its name; GIF, which FFmpeg reads as a video, and
    JPEG, with which a video of JPEGs begins, are by their name.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=_BY_CONTENT):
            return True
    except Exception:  # Pillow raises of every kind
        return False


def image_size(image: "str | PathLike | BinaryIO | PIL.Image.Image") -> tuple[int, int]:
    """
    Height and width in pixels of the frame that [`read_image`] gives, from the header alone where that tells.

    Raises:
        FileNotFoundError, ImageError: as [`read_image`], for what the header tells.
    """
    with _opened(image) as picture:
        _refuse_several(picture)
        if picture.mode.startswith(("I", "F")):
            return _frame(picture).shape[:2]  # only the pixels tell whether it can be used
        size = picture.height, picture.width
        # Of a TIFF Pillow gives the size as it is shown.
        sideways = picture.format != "TIFF" and _quick_orientation(picture) in _SIDEWAYS
        return size[::-1] if sideways else size


def read_orientation(image: "str | PathLike | BinaryIO | PIL.Image.Image") -> int:
    """
    The EXIF orientation of a frame, 1 to 8, from the header alone where that tells; 1, upright, where there is none.

    Raises:
        FileNotFoundError, ImageError: as [`read_image`], for what is no image.
    """
    with _opened(image) as picture:
        return _quick_orientation(picture)


def orientation_of(image: "PIL.Image.Image") -> int:
    """The EXIF orientation of an open image, 1 to 8; 1, upright, where there is none or a wrong one."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def _quick_orientation(image: "PIL.Image.Image") -> int:
    return orientation_of(image) if image.format != "PNG" or _tells_orientation(image) else 1


def _tells_orientation(png: "PIL.Image.Image") -> bool:
    """Whether a PNG has EXIF at all, which may come after the pixels: Pillow would decode these to look for it."""
    file = getattr(png, "fp", None)
    if file is None:
        return True
    place = file.tell()
    file.seek(len(_PNG_SIGNATURE))
    found = False
    while not found and len(header := file.read(8)) == 8:
        start = file.tell()
        kind = header[4:]
        found = kind == b"eXIf" or (kind in _PNG_TEXTS and file.read(_LONGEST_KEY).startswith(_PNG_KEYS))
        file.seek(start + int.from_bytes(header[:4], "big") + 4)  # behind its content and its checksum
    file.seek(place)
    return found


def _numbers(image: "PIL.Image.Image") -> range:
    """Of the pictures in an open file. Photos may carry previews or a second exposure (MPO), which do not count."""
    pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    # The picture that an animated PNG has for viewers that show no animation.
    return range(1 if getattr(image, "default_image", False) else 0, pictures)


class _opened:
    """An open PIL image, closed afterwards if it was opened here; whatever Pillow raises becomes an ImageError."""

    def __init__(self, image: "str | PathLike | BinaryIO | PIL.Image.Image"):
        self.given, self.ours = image, None

    def __enter__(self) -> "PIL.Image.Image":
        from PIL import Image

        if isinstance(self.given, Image.Image):
            return self.given
        try:
            self.ours = Image.open(self.given)
        except FileNotFoundError:
            raise
        except Exception as error:  # Pillow's decoders raise of every kind
            raise ImageError(_reason(error)) from error
        return self.ours

    def __exit__(self, kind, error, traceback) -> None:
        if self.ours is not None:
            self.ours.close()
        if isinstance(error, Exception) and not isinstance(error, ImageError | FileNotFoundError):
            raise ImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a kind that Pillow reads"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _refuse_several(image: "PIL.Image.Image") -> None:
    if (pictures := len(_numbers(image))) > 1:
        raise ImageError(
            f"it holds {pictures} pictures, not one frame; give it as a video of its own, or take it apart"
        )


def _frame(image: "PIL.Image.Image") -> np.ndarray:
    from PIL import Image, ImageOps

    sixteen_bits = any(
        ";16" in str(tile[3]) for tile in getattr(image, "tile", ())
    )  # of which Pillow keeps the upper eight
    image.load()
    # Pillow would make copies of what is upright and RGB already.
    upright = image if orientation_of(image) == 1 else ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        upright = Image.fromarray(_eight_bits(np.asarray(upright)))
    elif upright.mode == "F":
        raise ImageError(
            "its pixels are floating-point numbers, which have no range of their own; save it with 8 bits a channel"
        )
    elif upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")  # Pillow warns of the direct way
    frame = np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))
    if sixteen_bits and 0 < frame.max(initial=0) < _TWELVE_BITS // 256:
        raise ImageError(_TOO_DARK.format("4095"))
    return frame


def _eight_bits(values: np.ndarray) -> np.ndarray:
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < 0 or highest >= _SIXTEEN_BITS:
        raise ImageError(
            f"its pixels go from {lowest} to {highest}; expected 0 to 65535: save it with 8 bits a channel"
        )
    if 0 < highest < _TWELVE_BITS:
        raise ImageError(_TOO_DARK.format(highest))
    return np.round(values / 257).astype(np.uint8)
