"""Peak memory of scoring one JPEG of 200 megapixels, beside that of a small one.

python benchmarks/large.py [--megapixels 200] [--repeats 3]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from sides import SCORE, pictures, row, run, show_machine


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megapixels", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = (10_000, args.megapixels * 100)
    if args.make:
        pictures(args.make, 1, 0, shape=shape)
        return
    show_machine()
    print("| claim | GB | target | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # in a process of its own: a child's peak is never below what its parent held when it began
        make = [sys.executable, __file__, "--make", str(folder), "--megapixels", str(args.megapixels)]
        subprocess.run(make, check=True)
        large, small = str(folder / "00000.jpg"), pictures(folder / "small", 1, 512)[0]
        peaks: dict[str, list[float]] = {large: [], small: []}
        seconds = []
        for _ in range(args.repeats):
            for file, found in peaks.items():
                took, peak = run(SCORE, file, "--metric", "nr-aigciqa", "--device", "cpu", "--offline")
                found.append(peak / 1e9)
                seconds.append(took)
    row("peak memory, 512 x 512", peaks[small], "", f"{min(seconds[1::2]):.1f} s")
    row(f"peak memory, {args.megapixels} megapixels", peaks[large], "below 1.5", f"{min(seconds[::2]):.1f} s")


if __name__ == "__main__":
    main()
