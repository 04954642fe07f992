"""What aigciqa raises and warns of."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """A parameter in the message of an error, which a command shows as its option.

    Args:
        name: of the Python parameter.
        value: what follows the option on a command line; ``""`` for the name alone.
        code: the same value in Python; None where it is written alike.

    Examples:
        >>> str(Parameter("columns", "quality=...", "{'quality': ...}"))
        "columns={'quality': ...}"
        >>> Parameter("columns", "quality=...", "{'quality': ...}").shown({"columns": "--column"})
        '--column quality=...'
    """

    name: str
    value: str = ""
    code: str | None = None

    def __str__(self) -> str:
        code = self.value if self.code is None else self.code
        return f"{self.name}={code}" if code else self.name

    def shown(self, options: Mapping[str, str]) -> str:
        """As a command with these options, by parameter, writes it."""
        if self.name not in options:
            return str(self)
        return f"{options[self.name]} {self.value}".rstrip()


class AigciqaError(ValueError):
    """Anything aigciqa refuses; the message says what to do about it.

    The message is one text, or the parts of one: texts, and a `Parameter` where a parameter is named.

    Examples:
        >>> error = AigciqaError("no image here; pass ", Parameter("images", "FOLDER"))
        >>> str(error)
        'no image here; pass images=FOLDER'
        >>> error.shown({"images": "--images"})
        'no image here; pass --images FOLDER'
    """

    def __str__(self) -> str:
        return "".join(map(str, self.args))

    def shown(self, options: Mapping[str, str]) -> str:
        """The message with a command's options, by parameter, in the place of parameters."""
        return "".join(
            part.shown(options) if isinstance(part, Parameter) else str(part) for part in self.args
        )


class InputError(AigciqaError):
    """A picture, a reference or an argument that cannot be scored."""


class TransientError(InputError):
    """An image that cannot be read now, though nothing is wrong with it: the disk, the share or the memory failed."""


class CheckpointError(AigciqaError):
    """A checkpoint that cannot be found, fetched, or trusted."""


class AigciqaWarning(RuntimeWarning):
    """Something that aigciqa leaves out of a result; the commands print it as a line ``warning: ...``."""
