"""Standard streams that every command can write to, wherever it runs."""

import codecs
import io
import os
import sys

HANDLER = "aigciqa.shown"
PLAIN = "aigciqa.ascii"
# darker for higher bars; `aigciqa.summary` draws with the blocks
INSTEAD = str.maketrans(dict(zip("▁▂▃▄▅▆▇█", ".:-=+*#@", strict=True)) | {"±": "+-", "…": "..."})


def prepare_streams() -> None:
    """Let standard output and standard error take any text, and give a closed stream the null device.

    A character that a stream cannot encode is replaced: bars by ASCII, others by an escape such as ``\\u732b``. A
    closed stream also gets its file descriptor, or the next file that is opened would become standard output.

    Examples:
        >>> import io, sys
        >>> from contextlib import redirect_stdout
        >>> out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)
        >>> with redirect_stdout(out):
        ...     prepare_streams()
        ...     print("猫 ▁█ é")
        >>> out.buffer.getvalue().decode("cp1252").strip()
        '\\\\u732b .@ é'
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # open until the process ends, and closed without a ResourceWarning
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    codecs.register_error(HANDLER, _instead)
    codecs.register(_plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # not what another program put in its place
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=PLAIN if ascii_only else stream.encoding, errors=HANDLER)


def _instead(error: UnicodeError) -> tuple[str, int]:
    """What an encoder writes in the place of characters that the stream cannot show."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(INSTEAD)
    return text.encode("ascii", "backslashreplace").decode(), error.end


def _plain(name: str) -> codecs.CodecInfo | None:
    """ASCII by another name: click writes UTF-8 to a stream whose encoding is called ``ascii``."""
    if name != PLAIN:
        return None
    info = codecs.lookup("ascii")
    return codecs.CodecInfo(
        info.encode, info.decode, info.streamreader, info.streamwriter, info.incrementalencoder,
        info.incrementaldecoder, name=PLAIN,
    )  # fmt: skip
