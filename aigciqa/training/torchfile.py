"""Files of `torch.save` read as data, which can neither run code nor ask for more memory than they have bytes."""

import io
import mmap
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ZIP = b"PK\x03\x04"  # how a file begins that torch takes for its newer format
PARTS = 100_000  # that the newer format may have, one for each tensor; those of ViT-L are 300
SIZES = {  # bytes of an element, by the storage's name in the file; where it is not here, it has one
    "ComplexDoubleStorage": 16, "ComplexFloatStorage": 8, "DoubleStorage": 8, "LongStorage": 8, "FloatStorage": 4,
    "IntStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "ShortStorage": 2,
}  # fmt: skip


def load_tensors(path: Path, map: bool = False) -> Any:
    """Read a file of `torch.save` that holds tensors, numbers and text, onto the CPU.

    Args:
        path: the file.
        map: leave tensors on the disk until they are used, where the file's format allows it.

    Raises:
        ValueError: when it is damaged, not such a file, or announces more than it holds.
        Exception: whatever else torch raises for what it cannot read.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "state.pt"
        >>> torch.save({"epoch": 3, "weight": torch.ones(2)}, file)
        >>> load_tensors(file)
        {'epoch': 3, 'weight': tensor([1., 1.])}
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for somebody to write to it
        raise ValueError("it is not a regular file")
    zipped = _check(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=map and zipped)
    _check_tensors(content)
    return content


def _check(path: Path) -> bool:
    """Refuse a file whose tensors are larger than itself; whether it is of the newer format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        zipped = file.read(4) == ZIP
        if not zipped:
            if not size:
                raise ValueError("it is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                announced = _announced(data, pickles=4)  # magic number, version, machine, content
            if announced > size:
                raise ValueError(f"it announces {announced:,} bytes of tensors and has {size:,}")
            return False
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if len(parts) > PARTS or len({part.filename for part in parts}) < len(parts):
            raise ValueError("its parts are too many, or have one name")
        if (
            any(part.compress_type != zipfile.ZIP_STORED for part in parts)
            or sum(p.file_size for p in parts) > size
        ):
            raise ValueError("its parts are compressed or overlap, which torch.save never does")
        announced = sum(
            _announced(io.BytesIO(archive.read(part)), pickles=1)
            for part in parts
            if part.filename.rpartition("/")[2] == "data.pkl"
        )
    if announced > size:
        raise ValueError(f"it announces {announced:,} bytes of tensors and has {size:,}")
    return True


def _announced(file: Any, pickles: int) -> int:
    """Bytes of all storages that pickles name, of which none is built."""
    storages: dict[Any, int] = {}
    for _ in range(pickles):
        _Sizes(file, storages).load()
    return sum(storages.values())


class _Anything:
    """Stands for whatever a pickle would build."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __new__(cls, *_: Any, **__: Any) -> "_Anything":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


# The one in C allocates what a pickle says the length of a text is before it reads that text.
class _Sizes(pickle._Unpickler):
    """Goes through a pickle, in which every name stands for nothing, and notes the sizes of storages."""

    # a bytearray would be made as long as the pickle says
    dispatch = {k: v for k, v in pickle._Unpickler.dispatch.items() if k != pickle.BYTEARRAY8[0]}  # noqa: RUF012

    def __init__(self, file: Any, storages: dict[Any, int]) -> None:
        super().__init__(file)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if name == "bytearray":  # it would be made as long as the pickle says
            raise ValueError("it holds a bytearray, which no state dict does")
        return type(name, (_Anything,), {})

    def persistent_load(self, pid: Any) -> Any:
        kind, key, _, count = pid[1:5]
        if not isinstance(count, int) or not isinstance(key, str | int) or count < 0:
            raise ValueError("a storage in it has no size")
        size = count * SIZES.get(getattr(kind, "__name__", ""), 1)
        self.storages[key] = max(size, self.storages.get(key, 0))
        return _Anything()


def _check_tensors(content: Any) -> None:
    """Refuse tensors that are larger than their storage: any copy of them would be as large as they say."""
    waiting, known = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in known:
            continue
        known.add(id(value))
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            waiting += value
        elif isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu":
            wanted, there = value.numel() * value.element_size(), value.untyped_storage().nbytes()
            if wanted > there:
                raise ValueError(f"a tensor in it has {wanted:,} bytes, of which the file has {there:,}")
