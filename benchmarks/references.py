"""Full reference with 8 pictures per reference beside no reference on the same pictures.

    python benchmarks/references.py [--files 64] [--per-reference 8] [--repeats 5]

The reference is computed once, so 9 pictures go through the network where no reference has 8: 1.125 times.
"""

import argparse
import tempfile
from pathlib import Path

from sides import alternate, checkpoint, pictures, ratios, row, show_machine

import aigciqa


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--per-reference", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    show_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = pictures(folder / "generated", args.files, 512)
        prompts = pictures(folder / "prompts", -(-args.files // args.per_reference), 510)
        beside = [prompts[number // args.per_reference] for number in range(len(files))]
        nr = aigciqa.create_metric(checkpoint(folder / "nr"), device="cpu").load()
        fr = aigciqa.create_metric(checkpoint(folder / "fr", "full"), device="cpu").load()
        seconds = alternate(
            args.repeats,
            nr=lambda: list(nr.score_files(files)),
            fr=lambda: list(fr.score_files(files, beside)),
        )
    print("| claim | ratio | target | |\n|---|---|---|---|")
    row(
        f"FR, {args.per_reference} per reference / NR, {args.files} pictures",
        ratios(seconds["fr"], seconds["nr"]),
        "at most 1.2",
    )


if __name__ == "__main__":
    main()
