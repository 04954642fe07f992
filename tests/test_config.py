import json

import pytest
from conftest import tiny_config

from aigciqa.config import PAPER_BACKBONES, MetricConfig, Transform, paper_config
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
        ({"feature": "cls"}, "feature must be one of avg, token, stages"),
        ({"hidden": 10**9}, "hidden has the wrong type|hidden must be"),
        ({"hidden": True}, "hidden has the wrong type"),
        ({"tile_backbone": True}, "tile_backbone must be false without tiles"),
        ({"map_hidden": 8}, "map_hidden must be null, or with tiles and no reference"),
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
        ({"feature": "stages", "transform": {"tiles": 9}}, "transform must be tiles from 0 to 8"),
        ({"feature": "stages", "transform": {"tiles": -1}}, "transform must be tiles from 0 to 8"),
        ({"feature": "avg", "transform": {"tiles": 1}}, "transform must be tiles .* with feature stages"),
        ({"feature": "token", "transform": {"tiles": 1}}, "transform must be tiles .* with feature stages"),
        ({"feature": "stages", "transform": {"crop": 31, "tiles": 1}}, "tiles .* a crop of 32 or more"),
        ({"transform": {"tiles": True}}, "tiles has the wrong type"),
        ({"bounded": 1}, "bounded has the wrong type"),
        ({"feature": "stages", "cells": 9}, "cells must be 1, or up to 8 with feature stages"),
        ({"feature": "stages", "cells": 0}, "cells must be"),
        ({"feature": "avg", "cells": 2}, "cells must be"),
        ({"feature": "token", "cells": 2}, "cells must be"),
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


def test_what_goes_beyond_the_papers_is_written_and_read():
    config = tiny_config(
        "full", feature="stages", cells=8, transform=Transform(72, 64, tiles=8), bounded=True
    )
    assert MetricConfig.from_json(config.to_json()) == config
    assert config.transform.views == 65
    assert tiny_config().transform.views == 1
    tiny_config(
        feature="stages", transform=Transform(32, 32, tiles=1), tile_backbone=True
    )  # the smallest with tiles
    tiny_config(feature="stages", transform=Transform(31, 31))


def test_a_config_from_before_tiles_and_cells_is_the_papers():
    config = paper_config("resnet50", "full")
    data = json.loads(config.to_json())
    del data["cells"], data["tile_backbone"], data["bounded"], data["transform"]["tiles"]
    assert MetricConfig.from_json(json.dumps(data)) == config
    assert (config.cells, config.transform.tiles, config.transform.views) == (1, 0, 1)
    assert not config.bounded


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", "[" * 100_000, b"\xff\xfe", '{"format": 1}'])
def test_what_is_no_config_is_refused(text):
    with pytest.raises(CheckpointError, match=r"x/config\.json: "):
        MetricConfig.from_json(text, where="x/config.json")
