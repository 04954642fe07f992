"""The model card: what a checkpoint is, for people and for the Hub's search."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .. import limits
from ..config import MetricConfig
from ..errors import CheckpointError
from ..stamp import config_digest
from ..weights import WEIGHTS
from .bounds import check_file

# usual licences as the Hub writes them; any other is published as "other", with its name
LICENSES = (
    r"apache-2\.0|mit|bsd-[23]-clause|mpl-2\.0|unlicense|gpl-2\.0|a?l?gpl-3\.0|openrail|"
    r"cc0-1\.0|cc-by(-sa)?-3\.0|cc-by(-nc)?(-sa|-nd)?-4\.0"
)
REFERENCES = {
    "none": "none: it judges a generated picture alone",
    "full": "full: it compares a generated picture with the image prompt that it was made from; generated first",
    "partial": "partial: it compares a generated picture with its image prompt where there is one",
}
COLUMNS = {"srcc": "SRCC", "krcc": "KRCC", "plcc": "PLCC", "rmse": "RMSE", "pairwise": "pairwise accuracy"}


def model_card(
    config: MetricConfig,
    *,
    source: str | None = None,
    evaluation: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    table: str | None = None,
    notes: str | None = None,
) -> str:
    """The ``README.md`` of a checkpoint, in Markdown under a YAML header as the Hub reads it.

    Args:
        config: what to describe; a provenance key ``base_model`` with a Hub id goes into the header.
        source: what the examples give to `create_metric`; None for the config's repo and revision, or its name.
        evaluation: `Evaluation.to_dict` by dimension, or this by data set, or a JSON file of either, as
            ``aigciqa evaluate --out`` and a training run write it; figures of other weights are refused.
        table: a Markdown table of further results.
        notes: Markdown to stand under the first sentence.

    Raises:
        CheckpointError: when the evaluation cannot be read.

    Examples:
        >>> import aigciqa
        >>> print(model_card(aigciqa.metric_info("nr-aigciqa")).split("---")[1].strip())
        license: apache-2.0
        library_name: aigciqa
        tags:
        - image-quality-assessment
        ...
    """
    facts = {key: " ".join(value.split()) for key, value in config.provenance.items()}
    source = source or (config.repo and config.repo + (f"@{config.revision}" if config.revision else ""))
    source = source or config.name
    pictures, option = (
        ('"gen.png"', "") if config.mode == "NR" else ('"gen.png", "ref.png"', " --ref ref.png")
    )
    t, (low, high) = config.transform, config.score_range
    tiles = f"and {t.tiles} x {t.tiles} crops of that at native resolution, " if t.tiles else ""
    parts = [
        f"---\n{_header(config, facts)}---\n# {config.name}",
        f"This checkpoint learned from {facts['labels']}.",
        notes,
        f'```python\nimport aigciqa\naigciqa.create_metric("{source}")({pictures})\n```\n\n'
        f"```bash\naigciqa-score gen.png{option} --metric {source}\n```",
        f"## Scores\n\n- **predicts**: {', '.join(config.dimensions)}; {low:g} to {high:g}, higher is better\n"
        f"- **reference**: {REFERENCES[config.reference]}\n"
        f"- **backbone**: {config.backbone} (timm), feature `{config.feature}`\n"
        f"- **preprocessing**: shorter side to {t.resize} pixels, centre crop of {t.crop}, {tiles}"
        f"mean {list(t.mean)}, std {list(t.std)}\n"
        f"- **weights**: {WEIGHTS}, SHA-256 `{config.sha256}`",
        _accuracy(config, evaluation, table),
        "## Provenance\n\n" + "\n".join(f"- **{key.replace('_', ' ')}**: {facts[key]}" for key in facts),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _header(config: MetricConfig, facts: Mapping[str, str]) -> str:
    name = re.sub(r"[^a-z0-9.-]+", "-", facts["license"].lower()).strip("-")
    header: dict[str, Any] = {"license": name}
    if not re.fullmatch(LICENSES, name):
        header = {"license": "other", "license_name": name or "unknown"}
    header["library_name"] = "aigciqa"
    header["tags"] = ["image-quality-assessment", "aigc", f"{config.mode.lower()}-iqa"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base := facts.get("base_model", ""), re.ASCII):
        header["base_model"] = base
    return yaml.safe_dump(header, sort_keys=False)


def _accuracy(
    config: MetricConfig,
    evaluation: str | os.PathLike[str] | Mapping[str, Any] | None,
    table: str | None,
) -> str | None:
    parts = []
    if evaluation is not None:
        try:
            found: Any = evaluation
            if isinstance(evaluation, str | os.PathLike):
                check_file(Path(evaluation), limits.HELD, "an evaluation")
                found = json.loads(Path(evaluation).read_bytes())
            if "figures" in found:
                if found["sha256"] != config.sha256:
                    raise CheckpointError("the evaluation is of other weights than these; evaluate again")
                if found.get("config", config_digest(config)) != config_digest(config):
                    raise CheckpointError(
                        "the evaluation is of these weights with another config; evaluate again"
                    )
                found = found["figures"]
            parts.append(_accuracy_table(config, found))
        except CheckpointError:
            raise
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not an evaluation that `aigciqa evaluate` wrote: {error!r}") from None
    if table is not None:
        parts.append(table.strip())
    return "## Accuracy\n\n" + "\n\n".join(parts) if parts else None


def _accuracy_table(config: MetricConfig, evaluation: Any) -> str:
    by_set = evaluation
    if any("srcc" in result for result in evaluation.values()):
        by_set = {"": evaluation}
    rows = []
    for name, results in by_set.items():
        for dimension, result in results.items():
            cells = [_cell(result[key], result["intervals"].get(key)) for key in COLUMNS]
            by = "" if dimension in config.dimensions else f" (scored by {config.dimensions[0]})"
            if "scale" in result and tuple(result["scale"]) != config.score_range:  # RMSE is on the labels'
                by += " ({:g} to {:g})".format(*result["scale"])
            rows.append([" ".join(f"{name} {dimension}".split()) + by, str(result["n"]), *cells])
    if not rows:
        raise CheckpointError("the evaluation is empty")
    heads = ["labels", "pictures", *COLUMNS.values()]
    lines = (f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])
    return "In parentheses 95 % bootstrap intervals.\n\n" + "\n".join(lines)


def _cell(value: float | None, interval: tuple[float | None, float | None] | None) -> str:
    """None is what JSON has for NaN."""
    if value is None:
        return "-"
    low, high = interval or (None, None)
    return f"{value:.3f}" + ("" if low is None or high is None else f" ({low:.3f} to {high:.3f})")
