"""Names of files as tables and lists spell them, and as the disk does."""

import unicodedata
from pathlib import Path, PurePath

from .walking import there


def located(folder: Path, name: str) -> str:
    """The path of a file that a table or a list names.

    A name is taken as written where there is such a file. Else blanks around the name are left out, ``\\`` is taken
    for ``/``, and accents may be composed or decomposed (Unicode NFC or NFD), if that leads to a file.

    Args:
        folder: that the name is relative to.
        name: as written.

    Examples:
        >>> located(Path("."), "gen.png "), located(Path("."), ".\\\\gen.png"), located(Path("."), "no\\\\a.png")
        ('gen.png', 'gen.png', 'no\\\\a.png')
    """
    written = folder / name
    stripped = name.strip() or name
    spellings = dict.fromkeys((name, stripped, stripped.replace("\\", "/")))
    plain = len(spellings) == 1 and name.isascii()  # the most common name, which asks the disk nothing
    if plain or there(written.exists):
        return str(written)
    return next((found for spelling in spellings if (found := _found(folder, spelling))), str(written))


def _found(folder: Path, name: str) -> str | None:
    found = folder
    for part in PurePath(name).parts:
        forms = dict.fromkeys((part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part)))
        form = next((form for form in forms if there((found / form).exists)), None)
        if form is None:
            return None
        found /= form
    return str(found)
