"""Coverage-guided fuzzing: ``python tests/fuzz/fuzz.py TARGET [libFuzzer's options]``; ``make fuzz`` runs every target.

It begins with ``corpus/TARGET``, which it does not change, and writes what it finds in passing to a folder that is
given as the first of libFuzzer's arguments. An input that ends it is written to ``crash-...``: put it into
``corpus/TARGET`` as ``found-...`` with what mends it, so that `test_corpus.py` tries it from then on.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["aigciqa", "PIL", "csv", "tarfile", "json", "targets"]):
    import targets


def main() -> None:
    name, *options = sys.argv[1:]
    folders = [str(targets.CORPUS / name)]
    options += ["-max_len=65536", "-timeout=120", "-rss_limit_mb=4000", "-print_final_stats=1"]
    given = [o for o in options if not o.startswith("-")]
    atheris.Setup(
        [sys.argv[0], *(o for o in options if o.startswith("-")), *given, *folders], targets.TARGETS[name]
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
