"""What the packaged network costs beside its bare backbone, on ready tensors.

python benchmarks/cost.py --repeats 7
"""

import argparse
import statistics
import time

import timm
import torch

import aigciqa
from aigciqa.transform import preprocess


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    metric = aigciqa.create_metric("nr-aigciqa", device="cpu").load()
    t = metric.config.transform
    picture = preprocess(torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8), t)
    bare = (
        timm.create_model(metric.config.backbone, num_classes=0).eval().to(memory_format=torch.channels_last)
    )
    view = torch.rand(1, 3, t.crop, t.crop).contiguous(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {"packaged": [], "bare": []}
    with torch.inference_mode():
        for _ in range(args.repeats + 1):
            for name, run in (("packaged", lambda: metric.network(picture)), ("bare", lambda: bare(view))):
                start = time.perf_counter()
                for _ in range(5):
                    run()
                seconds[name].append((time.perf_counter() - start) / 5)
    ratios = [a / b for a, b in zip(seconds["packaged"][1:], seconds["bare"][1:], strict=True)]
    print(f"{metric.config.backbone} at {t.crop}, {t.views} views: {torch.get_num_threads()} threads")
    packaged, bare_ms = (statistics.median(seconds[name][1:]) * 1000 for name in ("packaged", "bare"))
    print(f"packaged {packaged:.0f} ms a picture, bare {bare_ms:.0f} ms")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
