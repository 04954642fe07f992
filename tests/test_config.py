import json

import pytest
from conftest import tiny_config

from aigciqa.config import PAPER_BACKBONES, MetricConfig, paper_config
from aigciqa.errors import CheckpointError


@pytest.mark.parametrize("reference", ["none", "full", "partial"])
@pytest.mark.parametrize("backbone", PAPER_BACKBONES)
def test_round_trip(backbone, reference):
    config = paper_config(backbone, reference, dimensions=("quality", "overall"), hidden=7, repo="a/b")
    assert MetricConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "its format is not 1; upgrade aigciqa"),
        ({"surprise": 1}, r"unknown keys \['surprise'\]"),
        ({"reference": "half"}, "reference must be one of none, full, partial"),
        ({"backbone": "hf-hub:evil/model"}, "backbone must be the name of a timm architecture"),
        ({"backbone": 3}, "backbone has the wrong type"),
        ({"name": "../../etc"}, "name must be"),
        ({"feature": "cls"}, "feature must be one of avg, token"),
        ({"hidden": 10**9}, "hidden has the wrong type|hidden must be"),
        ({"hidden": True}, "hidden has the wrong type"),
        ({"dimensions": []}, "dimensions must be"),
        ({"dimensions": ["quality", "quality"]}, "dimensions must be"),
        ({"dimensions": ["__proto__"]}, "dimensions must be"),
        ({"dimensions": "quality"}, "dimensions has the wrong type"),
        ({"score_range": [5, 0]}, "score_range must be"),
        ({"score_range": [0, 1e300]}, "score_range has the wrong type"),
        ({"transform": {"resize": 100000}}, "transform must be"),
        ({"transform": {"resize": 100, "crop": 200}}, "transform must be"),
        ({"transform": {"std": [0, 1, 1]}}, "transform must be"),
        ({"transform": {"mean": [0.5]}}, "transform must be"),
        ({"transform": {"zoom": 2}}, "unknown keys"),
        ({"transform": "224"}, "transform has the wrong type"),
        ({"sha256": "0x00"}, "sha256 must be"),
        ({"provenance": {}}, "provenance must be"),
        ({"provenance": {"labels": 1, "license": "x"}}, "provenance has the wrong type"),
    ],
)
def test_a_bad_field_is_named(change, says):
    data = json.loads(tiny_config().to_json()) | change
    with pytest.raises(CheckpointError, match=says):
        MetricConfig.from_json(json.dumps(data), where="x/config.json")


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", "[" * 100_000, b"\xff\xfe", '{"format": 1}'])
def test_what_is_no_config_is_refused(text):
    with pytest.raises(CheckpointError, match=r"x/config\.json: "):
        MetricConfig.from_json(text, where="x/config.json")
