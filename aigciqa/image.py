"""Anything a user may pass as a picture, as RGB tensors, or a clear error."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .decode import Large, decode_jpeg, despite_warnings, identify, load, open_file, orientation, upright
from .errors import InputError
from .formats import advice
from .limits import HELD, read_within
from .transient import not_now, transient
from .walking import shown, text_advice, there

Array: TypeAlias = "np.ndarray[Any, Any]"
Picture: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | Array | Tensor"
Pictures: TypeAlias = "Picture | list[Picture] | tuple[Picture, ...]"

TOLERANCE = 1e-4  # how far a float may lie outside [0, 1]: rounding of an earlier operation

# A file with more pixels than this is refused before any of them is decoded. Users may set it, as they may
# Pillow's own MAX_IMAGE_PIXELS, which does not count here; None for no limit.
MAX_PIXELS: int | None = 256_000_000

# A picture of more pixels than this is taken in parts, and only one such at a time is in memory.
LARGE = 32_000_000
BULKY = (
    64 << 20
)  # bytes; nor is a larger file opened beside another such, as Pillow may read much of it at once
_ONE_LARGE = threading.RLock()


def is_many(pictures: Any) -> bool:
    """Whether `pictures` is a list, a tuple or an (N, C, H, W) tensor rather than one picture."""
    return isinstance(pictures, list | tuple) or (isinstance(pictures, Tensor) and pictures.ndim == 4)


def read(pictures: Pictures) -> Iterator[Tensor]:
    """Decode pictures one after another.

    EXIF orientation is applied, transparency is composited on white, grey is repeated to three channels,
    16-bit grey is scaled to 8 bits (integers up to 255 in memory are taken for 8 bits), CMYK and the other modes
    are converted as Pillow does, and of an animation or a multi-page file the first frame is taken. Colour
    profiles are ignored.

    Args:
        pictures: one picture, or a list or tuple of them, of mixed kinds and sizes. A picture is a path, the
            bytes or the open binary file of an encoded picture (read from its start, where it can seek), a PIL
            image (its current frame), a numpy array (H, W) or (H, W, C), or a tensor (C, H, W) or (N, C, H, W).
            Arrays and tensors are uint8, or float in [0, 1]; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
            alpha).

    Yields:
        (1, 3, H, W), or (N, 3, H, W) for an (N, C, H, W) tensor: uint8, or float32 in [0, 1].

    Raises:
        InputError: naming the picture and what is wrong with it.

    Examples:
        >>> import numpy as np
        >>> for block in read([np.zeros((8, 9), np.uint8), "gen.png"]):
        ...     print(block.shape)
        torch.Size([1, 3, 8, 9])
        torch.Size([1, 3, 512, 512])
    """
    for picture, what in each(pictures):
        yield read_one(picture, what)


def each(pictures: Pictures) -> Iterator[tuple[Any, str]]:
    """Each picture, not yet looked at, and how messages call it.

    Raises:
        InputError: for an empty list.

    Examples:
        >>> list(each(["gen.png", "ref.png"]))
        [('gen.png', 'picture 0'), ('ref.png', 'picture 1')]
    """
    if not isinstance(pictures, list | tuple):
        yield pictures, "picture"
        return
    if not pictures:
        raise InputError("no picture given: the list is empty")
    for index, picture in enumerate(pictures):
        yield picture, f"picture {index}"


def read_one(picture: Any, what: str = "picture") -> Tensor:
    """Decode one picture, as `read` does.

    Args:
        picture: a path, bytes, an open binary file, a PIL image, an array or a tensor.
        what: how messages call it, where it is no path.

    Returns:
        (1, 3, H, W), or (N, 3, H, W) for an (N, C, H, W) tensor: uint8, or float32 in [0, 1].

    Raises:
        InputError: naming the picture and what is wrong with it.

    Examples:
        >>> read_one("gen.png").shape
        torch.Size([1, 3, 512, 512])
    """
    with opened(picture, what) as found:
        return found.part(0, 0, *found.shape) if isinstance(found, Large) else found


@contextmanager
def opened(picture: Any, what: str = "picture") -> Iterator[Tensor | Large]:
    """One picture, as `read` has it, or `Large` where an encoded or PIL picture has more than `LARGE` pixels.

    While a large one is open, others wait in their threads, so that these do not fill the memory together.

    Args:
        picture: a path, bytes, an open binary file, a PIL image, an array or a tensor.
        what: how messages call it, where it is no path.

    Raises:
        InputError: naming the picture and what is wrong with it.

    Examples:
        >>> with opened("gen.png") as found:
        ...     print(found.shape)
        torch.Size([1, 3, 512, 512])
    """
    with ExitStack() as held:
        yield _open_one(picture, what, held)


def _open_one(picture: Any, what: str, held: ExitStack) -> Tensor | Large:
    if isinstance(picture, Tensor):
        return _from_tensor(picture, what)
    if isinstance(picture, np.ndarray):
        return _from_array(picture, what)
    if isinstance(picture, Image.Image):
        return despite_warnings(lambda: _from_pil(picture, what, held))
    if isinstance(picture, str | os.PathLike):
        return _from_path(picture, held)
    if isinstance(picture, bytes | bytearray | memoryview):
        return _from_file(io.BytesIO(picture), f"{what} (bytes)", held)
    if hasattr(picture, "read"):
        name = getattr(picture, "name", None)
        called = shown(name) if isinstance(name, str) else f"{what} (file object)"
        try:
            if isinstance(picture.read(0), str):
                raise InputError(f"{what}: the file is open as text; open it with mode 'rb'")
            if getattr(picture, "seekable", bool)():
                picture.seek(0)
            data = read_within(picture, HELD, called, "pass its path, or make it smaller")
        except InputError:
            raise
        except ValueError as error:  # closed, or open for writing
            reason = str(error).rstrip(".")
            raise InputError(f"{called}: cannot be read: {reason}; open it with mode 'rb'") from None
        except Exception as error:  # also what a stream that decompresses raises
            _refuse(called, error)
        return _from_file(io.BytesIO(data), called, held)
    raise InputError(
        f"{what}: cannot score a {type(picture).__name__}; pass a path, bytes, an open binary file, "
        "a PIL image, a numpy array, a tensor, or a list of these"
    )


def _from_path(path: "str | os.PathLike[str]", held: ExitStack) -> Tensor | Large:
    path = os.fsdecode(path)
    name = shown(path)
    if "://" in path and not there(Path(path).exists):
        raise InputError(f"{name}: is a URL; download it and pass the file or its bytes")
    try:
        with open_file(path) as file:
            try:
                stream = file.unmapped() if file.seekable() else _piped(file, name)
                found = _from_file(stream, name, held)
            except InputError:
                if file.failed is None:
                    raise
            # also where a plugin went on without what it could not read, such as the orientation
            if file.failed is not None:
                raise not_now(name, file.failed) from file.failed
            return found
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; pass the pictures in it as a list") from None
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        if cause := transient(error):
            raise not_now(name, cause) from cause
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: cannot be opened: {reason}{text_advice(path)}") from None


def _piped(file: IO[bytes], name: str) -> IO[bytes]:
    return io.BytesIO(read_within(file, HELD, name, "write it to a file first"))


def _from_file(file: IO[bytes], what: str, held: ExitStack) -> Tensor | Large:
    return despite_warnings(lambda: _decoded(file, what, held))


def _decoded(file: IO[bytes], what: str, held: ExitStack) -> Tensor | Large:
    try:
        if file.seek(0, os.SEEK_END) > BULKY:
            held.enter_context(_ONE_LARGE)
        file.seek(0)
        with identify(file, what, MAX_PIXELS) as image:
            return _from_pil(image, what, held, file)
    except UnidentifiedImageError:
        raise InputError(f"{what}: not a picture that Pillow can read{advice(what)}") from None
    except (InputError, Warning):
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on broken files
        _refuse(what, error)


def _refuse(what: str, error: Exception) -> NoReturn:
    """For what failed in decoding: the image's own fault, or that of the place where it is decoded."""
    if cause := transient(error):
        raise not_now(what, cause) from cause
    raise InputError(f"{what}: broken picture: {error or type(error).__name__}") from None


def _from_pil(
    image: Image.Image, what: str, held: ExitStack, file: IO[bytes] | None = None
) -> Tensor | Large:
    try:
        if image.width * image.height > LARGE:
            held.enter_context(_ONE_LARGE)
            return _large(image, what, file)
        load(image, MAX_PIXELS)
        pixels = _from_pixels(image, what, _ends(image, what))
        return upright(pixels, orientation(image))
    except (InputError, Warning):
        raise
    except Exception as error:
        _refuse(what, error)


def _large(image: Image.Image, what: str, file: IO[bytes] | None) -> Large:
    pixels = decode_jpeg(image, file) if file is not None else None
    if pixels is None:
        load(image, MAX_PIXELS)
    ends = _ends(image, what)

    def take(top: int, left: int, height: int, width: int) -> Tensor:
        if pixels is not None:
            return pixels[..., top : top + height, left : left + width]
        box = (left, top, left + width, top + height)
        return _from_pixels(image if box == (0, 0, *image.size) else image.crop(box), what, ends)

    return Large((image.height, image.width), orientation(image), take)


def _ends(image: Image.Image, what: str) -> tuple[int, int]:
    """The values of black and white among grey of more than 8 bits; both 0 for other modes.

    A file of 16 bits has 65535, whatever its largest value; 32 bits, and images in memory, do not say.
    """
    if not image.mode.startswith("I") or 0 in image.size:
        return 0, 0
    grey = image if image.mode in ("I", "I;16") else image.convert("I")
    low, high = (int(end) for end in grey.getextrema())  # type: ignore[arg-type]  # of one channel
    if low < 0 or high > 65535:
        raise InputError(
            f"{what}: 32-bit integer pixels of unknown scale, {low} to {high}; convert to 8 or 16 bits, or to float "
            "in [0, 1]"
        )
    if image.format in ("PNG", "PPM") or (image.format and image.mode != "I"):
        tags: dict[int, Any] = getattr(image, "tag_v2", {})  # of TIFF
        white = (1 << tags.get(258, (16,))[0]) - 1  # BitsPerSample is 12 or 16
        white_is_zero = tags.get(262) == 0  # PhotometricInterpretation, which Pillow does not apply
        return (white, 0) if white_is_zero else (0, white)
    if 255 < high < 4096:
        raise InputError(
            f"{what}: integer pixels up to {high} may be of 10, 12 or 16 bits, which cannot be told; convert to "
            "8 bits, such as Image.fromarray((numpy.asarray(image) / 4095 * 255).round().astype('uint8')) for 12"
        )
    return 0, 255 if high <= 255 else 65535


def _from_pixels(image: Image.Image, what: str, ends: tuple[int, int]) -> Tensor:
    """A loaded and upright picture, or a part of one."""
    if 0 in image.size:
        raise InputError(f"{what}: has no pixels (size {image.size[0]} x {image.size[1]})")
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image, what, ends)
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return _from_array(np.array(image), what)


def _from_deep(image: Image.Image, what: str, ends: tuple[int, int]) -> Tensor:
    """Grey of 12, 16 or 32 bits, or floats."""
    values = np.array(image)
    if image.mode == "F":
        return _from_array(values, what)
    black, span = ends[0], max(ends) - min(ends)
    grey = ((abs(values.astype(np.int64) - black) * 255 + span // 2) // span).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return _from_array(grey, what)


def _from_array(array: Array, what: str) -> Tensor:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 2, 3, 4):
            hint = "; it looks like (C, H, W): pass array.transpose(1, 2, 0) or a tensor"
        elif array.ndim == 4:
            hint = "; pass a batch as list(array)"
        raise InputError(f"{what}: array of shape {array.shape}, expected (H, W) or (H, W, 1 to 4){hint}")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(f"{what}: {_wrong_dtype(str(array.dtype), array, 'astype(numpy.uint8)')}")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # which is refused as infinite
            array = array.astype(np.float32)  # also what torch does not know: longdouble, other byte orders
    elif not array.flags.writeable or min(array.strides) < 0:
        array = array.copy()
    return _to_rgb(torch.from_numpy(array).permute(2, 0, 1)[None], what)


def _from_tensor(tensor: Tensor, what: str) -> Tensor:
    batch = tensor[None] if tensor.ndim == 3 else tensor
    if batch.ndim != 4 or batch.shape[1] not in (1, 2, 3, 4):
        hint = ""
        if batch.ndim == 4 and batch.shape[-1] in (1, 2, 3, 4):
            hint = "; the channels are last: permute them first, or pass a numpy array"
        raise InputError(
            f"{what}: tensor of shape {tuple(tensor.shape)}, expected (C, H, W) or (N, C, H, W) "
            f"with C 1 to 4{hint}"
        )
    if batch.dtype != torch.uint8 and not batch.is_floating_point():
        dtype = str(batch.dtype).removeprefix("torch.")
        raise InputError(f"{what}: {_wrong_dtype(dtype, batch.numpy(force=True), 'to(torch.uint8)')}")
    return _to_rgb(batch, what)


def _wrong_dtype(dtype: str, pixels: Array, to_8_bits: str) -> str:
    wanted = "pass uint8 (0 to 255) or float in [0, 1]"
    if pixels.dtype.kind not in "iu" or not pixels.size:
        return f"pixels are {dtype}; {wanted}"
    low, high = int(pixels.min()), int(pixels.max())
    remedy = ""
    if low >= 0 and high <= 255:
        remedy = f": pixels.{to_8_bits}, if 255 is white"
    elif low >= 0 and high <= 65535:
        remedy = ": pixels / 65535 where they have 16 bits, / 4095 where 12"
    return f"pixels are {dtype}, {low} to {high}; {wanted}{remedy}"


def _to_rgb(batch: Tensor, what: str) -> Tensor:
    if 0 in batch.shape:
        raise InputError(f"{what}: has no pixels (shape {tuple(batch.shape)})")
    if batch.is_floating_point():
        batch = batch.float()
        low, high = (x.item() for x in torch.aminmax(batch.detach()))
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # NaN fails too
            finite = abs(low) < 1e30 and abs(high) < 1e30
            hint = f"{low:.6g} to {high:.6g}" if finite else "NaN or infinite"
            advice = "clamp or rescale"
            if low >= -0.1 and high <= 1.1:
                advice = "clamp them: pixels.clip(0, 1)"
            elif low >= -1.1 and high <= 1.1:
                advice = "rescale them: (pixels + 1) / 2"
            elif 1.5 < high <= 255 and low >= 0:
                advice = "divide by 255 or pass uint8"
            raise InputError(f"{what}: float pixels must lie in [0, 1] but are {hint}; {advice}")
    channels = batch.shape[1]
    if channels in (2, 4):
        batch = _on_white(batch[:, :-1], batch[:, -1:])
    return batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch


def _on_white(colour: Tensor, alpha: Tensor) -> Tensor:
    if colour.dtype != torch.uint8:
        return colour * alpha + (1 - alpha)
    colour, alpha = colour.int(), alpha.int()
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
