"""What aigciqa raises."""


class AigciqaError(ValueError):
    """Anything aigciqa refuses; the message says what to do about it."""


class InputError(AigciqaError):
    """A picture, a reference or an argument that cannot be scored."""


class CheckpointError(AigciqaError):
    """A checkpoint that cannot be found, fetched, or trusted."""
