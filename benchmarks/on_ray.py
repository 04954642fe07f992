"""The Ray engine with 2 workers beside the local one, both as `aigciqa-score -o`.

    python benchmarks/on_ray.py [--files 2000] [--repeats 2] [--metric NAME]

Nothing is subtracted: starting Python, and for Ray starting and ending a cluster on this machine, is in the times.
What one picture takes, which is all start-up, is printed beside. (Not called ray.py, which would hide the package.)
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from sides import SCORE, alternate, checkpoint, pictures, ratios, row, run, show_machine


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--metric", help="[default: the paper's model, random]")
    args = parser.parse_args()
    show_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures(folder / "many", args.files, 256)
        pictures(folder / "one", 1, 256)
        metric = args.metric or str(checkpoint(folder / "nr"))

        def score(which: str, engine: str) -> None:
            output = folder / f"{which}-{engine}.csv"
            output.unlink(missing_ok=True)
            given = ["--metric", metric, "--engine", engine, "--offline", "-o", str(output)]
            run(SCORE, str(folder / which), *given)

        start = alternate(args.repeats, local=lambda: score("one", "torch"), ray=lambda: score("one", "ray"))
        seconds = alternate(
            args.repeats, local=lambda: score("many", "torch"), ray=lambda: score("many", "ray")
        )
    local, ray, local_start, ray_start = (
        statistics.median(found[side]) for found in (seconds, start) for side in ("local", "ray")
    )
    print("| claim | ratio | target | |\n|---|---|---|---|")
    row(
        f"Ray / local engine, {args.files:,} pictures",
        ratios(seconds["ray"], seconds["local"]),
        "below 1.15",
        f"{ray:.1f} s and {local:.1f} s, of which starting up is {ray_start:.1f} s and {local_start:.1f} s",
    )


if __name__ == "__main__":
    main()
