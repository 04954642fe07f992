"""What aigciqa raises."""


class AigciqaError(ValueError):
    """Anything aigciqa refuses; the message says what to do about it."""


class InputError(AigciqaError):
    """A picture, a reference or an argument that cannot be scored."""


class TransientError(InputError):
    """An image that cannot be read now, though nothing is wrong with it: the disk, the share or the memory failed."""


class CheckpointError(AigciqaError):
    """A checkpoint that cannot be found, fetched, or trusted."""
