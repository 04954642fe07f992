"""What an ONNX file may hold. It is checked before ONNX Runtime sees it, for anybody may have written the file."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from .errors import CheckpointError, InputError
from .limits import GRAPH, STRUCTURE, check_size, read_within
from .walking import shown

# ModelProto.graph, GraphProto.initializer, TensorProto.raw_data: the numbers of these fields in onnx.proto
_WEIGHTS = (7, 5, 9)
_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip
_AGAIN = "export the metric again: aigciqa export NAME FILE.onnx"


@dataclass(frozen=True)
class Graph:
    """An ONNX file that has been checked.

    Args:
        content: what ONNX Runtime is given: the graph, without metadata and without whatever was not checked.
        metadata: text by key.
        sha256: of the file.
    """

    content: bytes
    metadata: dict[str, str]
    sha256: str


def read_graph(path: Path) -> Graph:
    """Read an ONNX file and check that it holds one graph of standard operators, without loops, with all its weights.

    Args:
        path: of the file.

    Raises:
        CheckpointError: when it is not such a file.
        InputError: when the package onnx is not installed.
    """
    (onnx,) = installed("onnx")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for somebody to write to it
            raise CheckpointError("is not a file")
        check_size(status.st_size, GRAPH, "the file", "a metric is smaller")
        with path.open("rb") as file:
            _check_structure(file, status.st_size)
            file.seek(0)
            data = read_within(file, GRAPH, "the file", "a metric is smaller")
        model = onnx.ModelProto()
        model.ParseFromString(data)
        sha256 = hashlib.sha256(data).hexdigest()
        del data
        metadata = {str(entry.key): str(entry.value) for entry in model.metadata_props}
        if len(metadata) < len(model.metadata_props):
            raise CheckpointError("has a key twice in its metadata")
        _check(model)
        # ONNX Runtime reads these bytes, in which there is nothing that this version of onnx does not know
        for field in ("metadata_props", "training_info"):
            model.ClearField(field)
        model.DiscardUnknownFields()
        return Graph(model.SerializeToString(), metadata, sha256)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}; {_AGAIN}") from None
    except InputError as error:  # of `limits`
        raise CheckpointError(str(error)) from None
    except CheckpointError:
        raise
    except Exception as error:  # protobuf has errors of its own, and text that is not UTF-8 others
        raise CheckpointError(f"is damaged or not an ONNX file ({first_line(error)}); {_AGAIN}") from None


def installed(*modules: str) -> list[Any]:
    try:
        return [import_module(module) for module in modules]
    except ModuleNotFoundError as error:
        raise InputError(f"this needs {error.name}; pip install 'aigciqa[export]'") from None


def first_line(error: Exception) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return shown(line if len(line) <= 400 else f"{line[:400]}...")


def _check(model: Any) -> None:
    """Refuse what no export of this package holds, and what can run without end or read other files."""
    if model.functions:
        raise CheckpointError(f"holds functions, which may call themselves; {_AGAIN}")
    if model.graph.sparse_initializer:
        raise CheckpointError(f"holds sparse weights, which may be of any size; {_AGAIN}")
    for node in model.graph.node:
        operator = _brief(node.op_type)
        if node.domain not in ("", "ai.onnx"):
            raise CheckpointError(
                f"has an operator {operator} of {_brief(node.domain)}, which is not standard ONNX; {_AGAIN}"
            )
        if node.op_type in _RANDOM:
            raise CheckpointError(
                f"draws random numbers ({operator}), so no score would come twice; {_AGAIN}"
            )
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise CheckpointError(
                    f"has control flow ({operator}), which may have no end; a metric has none; {_AGAIN}"
                )
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise CheckpointError(f"holds sparse weights, which may be of any size; {_AGAIN}")
    for tensor in _tensors(model.graph):
        if tensor.data_location or tensor.external_data:
            raise CheckpointError(
                f"takes weights from other files ({_brief(tensor.name)}); only a file that holds all of them is read"
            )


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _brief(text: str) -> str:
    return repr(text[:60])


def _check_structure(file: IO[bytes], size: int) -> None:
    """Refuse a file with more than `STRUCTURE` bytes beside its weights, for millions of parts take gigabytes."""
    walk = _Walk(file)
    walk.message(size, _WEIGHTS)
    if walk.at != size:
        raise ValueError("a length leads beyond the end")
    check_size(size - walk.weights, STRUCTURE, "the file without its weights", "a metric is smaller")


class _Walk:
    """Goes over a protobuf message and skips what is large, so that its parts are counted before they are parsed."""

    def __init__(self, file: IO[bytes]):
        self.file, self.at, self.weights = file, 0, 0

    def message(self, end: int, path: tuple[int, ...]) -> None:
        """One message up to `end`, of whose fields those on the way to the weights are looked into."""
        while self.at < end:
            key = self.number()
            kind = key & 7
            if key < 8:
                raise ValueError("it has a field without a number")
            if kind == 0:
                self.number()
            elif kind == 2:
                length = self.number()
                inner = self.at + length
                if inner > end:
                    raise ValueError("a length leads beyond the end")
                if key >> 3 != path[0]:
                    self.skip(length)
                elif len(path) > 1:
                    self.message(inner, path[1:])
                else:
                    self.weights += length
                    self.skip(length)
            elif kind in (1, 5):
                self.skip(8 if kind == 1 else 4)
            else:
                raise ValueError("it has a field of no kind")
            check_size(
                self.at - self.weights, STRUCTURE, "the file without its weights", "a metric is smaller"
            )

    def number(self) -> int:
        found = shift = 0
        while shift < 70:
            byte = self.file.read(1)
            if not byte:
                raise ValueError("it is cut short")
            self.at += 1
            found |= (byte[0] & 127) << shift
            if byte[0] < 128:
                return found
            shift += 7
        raise ValueError("it has a number of more than ten bytes")

    def skip(self, length: int) -> None:
        self.file.seek(length, os.SEEK_CUR)
        self.at += length
