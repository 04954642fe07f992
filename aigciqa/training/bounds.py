"""Tables and recipes are data from strangers: how much memory one would take is found out before it is read."""

import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from .. import limits
from ..errors import InputError

CELL = 64  # bytes that a cell takes beside its text, at least
COLUMNS = 4096
ROWS = 1 << 20  # of a sheet; spreadsheet programs have no more
BLOCK = 1 << 20
XLSX_TEXT, XLSX_TAGS = (
    128 * limits.MIB,
    2_000_000,
)  # a sheet has 4 tags for each cell, and each takes up to a kilobyte
XLSX_STYLES = 2 * limits.MIB  # of a part that is neither a sheet nor its texts; these become large objects
REMEDY = "split it into smaller tables, or leave out the columns that are not needed"


def check_file(path: Path, limit: int, what: str = "a table") -> int:
    """Refuse what is no ordinary file, is empty or too large, without opening it: a pipe would wait for ever.

    Returns:
        Its size in bytes.

    Raises:
        InputError: for such a file.
        OSError: when it is not there.
    """
    if not path.is_file() and path.exists():
        raise InputError(f"{path}: cannot be read as {what}: it is not a regular file")
    size = path.stat().st_size
    if not size:  # so are the endless files of /proc
        raise InputError(f"{path}: cannot be read as {what}: it is empty")
    limits.check_size(size, limit, str(path), f"{what} is smaller; is it the right file?")
    return size


def check_text(path: Path, separators: bytes) -> None:
    """Refuse a table of text that would take more than `limits.TABLE` of memory.

    Args:
        path: the file.
        separators: what ends a cell, the one between columns first.

    Raises:
        InputError: when it has too many cells or columns.
    """
    size = check_file(path, limits.TABLE)
    cells = sum(block.count(bytes([code])) for block in _blocks(path) for code in separators)
    limits.check_size(2 * size + CELL * cells, limits.TABLE, f"{path} ({cells:,} cells)", REMEDY)
    _check_columns(path, _columns(path, separators[:1]))


def check_xlsx(path: Path) -> None:
    """Refuse a workbook that is larger unpacked than `read_table` would need.

    Raises:
        InputError: when it is.
        Exception: what the readers raise for what is no workbook.
    """
    check_file(path, limits.HELD)
    text = tags = 0
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if not part.filename.endswith((".xml", ".rels")):
                continue  # an image, which is not read
            if part.filename.startswith(("xl/drawings/", "xl/charts/", "xl/pivot", "customXml/")):
                continue
            if not part.filename.startswith(("xl/worksheets/", "xl/sharedStrings")):
                limits.check_size(
                    part.file_size, XLSX_STYLES, f"{path}: {part.filename}", "save the table as CSV"
                )
            with archive.open(part) as file:
                before = b""
                while block := file.read(BLOCK):
                    text, tags = text + len(block), tags + block.count(b"<")
                    limits.check_size(text, XLSX_TEXT, f"{path}, unpacked", "save the table as CSV")
                    if tags > XLSX_TAGS:
                        raise InputError(
                            f"{path}: has more than {XLSX_TAGS // 4:,} cells; save the table as CSV"
                        )
                    if b"<!ENTITY" in before[-16:] + block or b"\0" in block[:4]:  # the latter in UTF-16
                        raise InputError(f"{path}: {part.filename} is not as a spreadsheet program writes it")
                    before = block
    _check_cells(path)


def _check_cells(path: Path) -> None:
    """Go through the first sheet, whose rows and columns may be numbered as far as it likes."""
    book = import_module("openpyxl").load_workbook(path, read_only=True, data_only=True, keep_links=False)
    try:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        width = 1
        for count, row in enumerate(sheet.iter_rows(values_only=True), 1):
            width = max(width, len(row))
            if count > ROWS or count * width * CELL > limits.TABLE:
                raise InputError(
                    f"{path}: has more than {ROWS:,} rows or {limits.TABLE // CELL:,} cells; {REMEDY}"
                )
        _check_columns(path, width)
    finally:
        book.close()


def _check_columns(path: Path, count: int) -> None:
    if count > COLUMNS:
        raise InputError(f"{path}: has {count:,} columns, more than {COLUMNS:,}; {REMEDY}")


def _columns(path: Path, separator: bytes) -> int:
    """How many columns the first row has, whose cells may hold ends of lines between quotes."""
    count, quoted = 1, False
    for block in _blocks(path):
        for at, part in enumerate(block.split(b'"')):
            quoted ^= at > 0
            if quoted:
                continue
            line, end, _ = part.partition(b"\n")
            count += line.count(separator)
            if end or count > COLUMNS:
                return count
    return count


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
