"""The same network, once here and once as a metric of pyiqa 0.1.16: files to scores, first score, --help.

    python -m venv OTHER && OTHER/bin/pip install pyiqa==0.1.16
    python benchmarks/against_pyiqa.py --pyiqa OTHER/bin/python [--files 192] [--size 512] [--repeats 5]

pyiqa scores files as its users do: one after another, `metric(path)`. Both have the same weights and the same
preprocessing; the largest difference of their scores is printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from sides import SCORE, alternate, checkpoint, pictures, ratios, row, run, show_machine

import aigciqa

# Scores every file named in its arguments, once for each line that it reads.
PYIQA = """
import json, sys
import pyiqa, timm, torch
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY
from safetensors.torch import load_file
from torchvision.transforms import v2

@ARCH_REGISTRY.register()
class AIGCIQA(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        state = load_file(weights)
        self.net = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        self.fc1, self.fc2 = (torch.nn.Linear(*state[f"head.fc{i}.weight"].shape[::-1]) for i in (1, 2))
        self.load_state_dict({k.removeprefix("backbone.").removeprefix("head."): v for k, v in state.items()})
        self.transform = v2.Compose([
            v2.Resize(256, antialias=True), v2.CenterCrop(224),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])

    def forward(self, x):
        return self.fc2(self.fc1(self.net(self.transform(x))).relu())

weights, *files = sys.argv[1:]
DEFAULT_CONFIGS["aigciqa"] = {
    "metric_opts": {"type": "AIGCIQA", "weights": weights}, "metric_mode": "NR", "score_range": "0, 5"
}
metric = pyiqa.create_metric("aigciqa", device="cpu")
for _ in sys.stdin:
    print(json.dumps([metric(file).item() for file in files]), flush=True)
"""


class Pyiqa:
    """A process that has pyiqa, and a metric made."""

    def __init__(self, python: str, weights: Path, files: list[str]):
        command = [python, "-c", PYIQA, str(weights), *files]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def score(self) -> list[float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        while line and not line.startswith("["):  # what it logs
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit("pyiqa failed; is this the interpreter that has pyiqa 0.1.16?")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pyiqa", required=True, help="A Python that has pyiqa 0.1.16.")
    parser.add_argument("--files", type=int, default=192)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    show_machine()
    print("| claim | ratio | target | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = pictures(folder / "pictures", args.files, args.size)
        made = checkpoint(folder / "nr")
        metric = aigciqa.create_metric(made, device="cpu").load()
        weights = made / "model.safetensors"

        other = Pyiqa(args.pyiqa, weights, files)
        pairs = zip(metric.score_files(files), other.score(), strict=True)
        apart = max(abs(mine.scores["quality"] - theirs) for mine, theirs in pairs if mine.scores)
        seconds = alternate(args.repeats, pyiqa=other.score, here=lambda: list(metric.score_files(files)))
        other.close()
        beside = f"{args.size} x {args.size} JPEG; scores at most {apart:.1e} apart"
        row(
            "files to scores, throughput here / pyiqa",
            ratios(seconds["pyiqa"], seconds["here"]),
            "at least 3",
            beside,
        )

        def first() -> None:
            alone = Pyiqa(args.pyiqa, weights, files[:1])
            alone.score()
            alone.close()

        mine = [SCORE, files[0], "--metric", str(made), "--device", "cpu", "--offline"]
        brought = {"torch": "import torch", "all": "import torch, torchvision, timm"}  # which both import
        seconds = alternate(
            args.repeats,
            pyiqa=first,
            here=lambda: run(*mine),
            **{name: partial(run, sys.executable, "-c", line) for name, line in brought.items()},
        )
        compare("time to first score, here / pyiqa", seconds, "at most 0.333")
        for name, line in brought.items():
            row(f"`{line}` alone / pyiqa's first score", ratios(seconds[name], seconds["pyiqa"]), "", "")
        helped = alternate(
            args.repeats,
            pyiqa=lambda: run(args.pyiqa, "-m", "pyiqa.pyiqa_cmd", "--help"),
            here=lambda: run(SCORE, "--help"),
        )
        compare("--help, here / pyiqa", helped, "at most 0.05")


def compare(claim: str, seconds: dict[str, list[float]], target: str) -> None:
    here, pyiqa = (min(seconds[side]) for side in ("here", "pyiqa"))
    row(claim, ratios(seconds["here"], seconds["pyiqa"]), target, f"fastest: {here:.2f} s, {pyiqa:.2f} s")


if __name__ == "__main__":
    main()
