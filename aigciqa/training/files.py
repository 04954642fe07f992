"""Files that appear whole or not at all."""

from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name first, so that being killed leaves the old one, or none."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
