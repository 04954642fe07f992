"""The lowest version that pyproject.toml declares of everything it needs, as constraints for pip.

    python .ci/floors.py [NAME ...] > floors.txt
    pip install --constraint floors.txt ".[test]"

Each NAME is left out, and pip takes the newest that fits. Where an extra needs more than the package itself, the
floor of the package is given, so leave that name out to install the extra.
"""

import re
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib


def floors(project: dict, left_out: list[str]) -> dict[str, str]:
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = [requirement for group in groups for requirement in group]
    found: dict[str, str] = {}
    for name, version in re.findall(
        r"^([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)$", "\n".join(declared), re.MULTILINE
    ):
        found.setdefault(name, version)
    if unknown := set(left_out) - set(found):
        sys.exit(f"pyproject.toml declares no floor of {', '.join(sorted(unknown))}")
    return {name: version for name, version in found.items() if name not in left_out}


if __name__ == "__main__":
    pyproject = Path(__file__).parent.parent / "pyproject.toml"
    table = tomllib.loads(pyproject.read_text())["project"]
    print(*(f"{name}=={version}" for name, version in floors(table, sys.argv[1:]).items()), sep="\n")
