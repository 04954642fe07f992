"""Publishing to the loopback Hub by the real client, and opening what was published."""

import json

import pytest
import torch
import yaml
from conftest import random_network, tiny_config
from huggingface_hub import constants

import aigciqa
from aigciqa.config import Transform
from aigciqa.errors import CheckpointError
from aigciqa.training.publishing import model_card, publish
from aigciqa.weights import save_checkpoint

REPO = "someone/scorer"
RESULT = {
    "n": 400, "srcc": 0.70631, "krcc": 0.5, "plcc": 0.7249, "plcc4": 0.73, "rmse": 0.61, "pairwise": None,
    "intervals": {"srcc": [0.6502, 0.7519], "krcc": [None, None], "plcc": [0.66, 0.78], "rmse": [0.55, 0.68]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def plain_storage(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def send(hub, tiny):
    def make(repo=REPO, folder=None, **options):
        return publish(folder or tiny(), repo, token=hub.token, **options)

    return make


def written(hub):
    """Method and path of every request that would change something."""
    return [(method, path) for method, path, _ in hub.requests if method in ("POST", "PUT")]


def test_published_scores_as_the_folder_does(hub, tiny, picture, tmp_path):
    folder = tiny("full")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = publish(folder, REPO, revision="v1", token=hub.token, message="The first one")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    assert result.source == f"{REPO}@v1"
    metric = aigciqa.create_metric(result.source, device="cpu", cache_dir=tmp_path / "cache")
    pair = picture(), picture(seed=1)
    assert torch.equal(metric(*pair), aigciqa.create_metric(folder, device="cpu")(*pair))
    assert (metric.config.repo, metric.config.revision) == (REPO, "v1")
    assert metric.config == result.config == aigciqa.metric_info(folder).with_(repo=REPO, revision="v1")

    repo = hub.repo(REPO)
    assert repo.refs["v1"] == repo.refs["main"] == result.commit
    files = repo.commits[result.commit]
    assert files.keys() == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    assert files["model.safetensors"] == before["model.safetensors"]
    assert files["README.md"].decode() == result.card
    assert result.sizes == {name: len(files[name]) for name in result.sizes}
    assert len([path for _, path in written(hub) if "/commit/" in path]) == 1


def test_next_version_leaves_the_first_as_it_is(hub, send, picture, tmp_path):
    first = send(revision="v1")
    other = tmp_path / "other"
    save_checkpoint(other, tiny_config(), random_network(tiny_config(), seed=7).state_dict())
    second = send(folder=other, revision="v2")
    assert hub.repo(REPO).refs["v1"] == first.commit != second.commit == hub.repo(REPO).refs["v2"]
    scores = [
        aigciqa.create_metric(f"{REPO}@{tag}", device="cpu", cache_dir=tmp_path / "cache")(picture())
        for tag in ("v1", "v2")
    ]
    assert not torch.equal(*scores)


def test_without_a_revision_there_is_no_tag(hub, send):
    result = send()
    assert result.source == REPO
    assert hub.repo(REPO).refs == {"main": result.commit}
    assert result.config.revision is None


def test_a_tag_is_never_moved(hub, send):
    first = send(revision="v1")
    before = dict(hub.repo(REPO).refs)
    hub.requests.clear()
    with pytest.raises(CheckpointError, match=r"nothing was published.*has v1 already"):
        send(revision="v1", license="MIT")
    assert hub.repo(REPO).refs == before
    assert written(hub) == [("POST", "/api/repos/create")]
    assert before["v1"] == first.commit


def test_a_tag_that_appears_meanwhile_is_not_moved_either(hub, send, monkeypatch):
    real = type(hub.repo(REPO)).commit
    hub.repos.clear()

    def commit(self, files, *refs):
        made = real(self, files, *refs)
        if "config.json" in files:
            self.refs["v1"] = "0" * 40  # somebody else was quicker
        return made

    monkeypatch.setattr(type(hub.repo(REPO)), "commit", commit)
    hub.repos.clear()
    with pytest.raises(CheckpointError, match=r"are there as commit [0-9a-f]{40}, but without the tag v1"):
        send(revision="v1")
    assert hub.repo(REPO).refs["v1"] == "0" * 40


def test_private(hub, send, picture, tmp_path):
    send(private=True, revision="v1")
    assert hub.repo(REPO).private
    options = {"device": "cpu", "cache_dir": tmp_path / "cache"}
    with pytest.raises(CheckpointError, match="RepositoryNotFound"):
        aigciqa.create_metric(f"{REPO}@v1", **options)(picture())
    assert aigciqa.create_metric(f"{REPO}@v1", token=hub.token, **options)(picture()).shape == (1,)
    send(revision="v2")  # a private repository stays so
    assert hub.repo(REPO).private


def test_private_is_not_put_into_a_public_repository(hub, send):
    send(revision="v1")
    with pytest.raises(CheckpointError, match=r"nothing was published.*already and public"):
        send(revision="v2", private=True)
    assert "v2" not in hub.repo(REPO).refs


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        ("hf_wrong", "hf auth login"),
        (None, "hf auth login"),
        ("hf_readonly", "may not write to someone/scorer"),
    ],
)
def test_without_permission(hub, tiny, token, advice):
    with pytest.raises(CheckpointError, match=advice) as caught:
        publish(tiny(), REPO, revision="v1", token=token)
    assert "nothing was published" in str(caught.value)
    assert hub.repos == {}


def test_token_of_the_environment(hub, tiny, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert publish(tiny(), REPO, revision="v1").commit == hub.repo(REPO).refs["v1"]


def test_offline(hub, send, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"nothing was published(.|\n)*check the network and HF_HUB_OFFLINE"
    ):
        send()
    assert hub.requests == []


def test_failing_hub(hub, send):
    hub.status = 500
    with pytest.raises(CheckpointError, match=r"nothing was published.*\n.*500"):
        send()


def test_dry_run_shows_all_and_does_nothing(hub, send, tiny):
    folder = tiny()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = send(folder=folder, revision="v1", dry_run=True)
    assert hub.requests == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    shown = str(result)
    for part in (
        "someone/scorer@v1: not published (dry run)",
        "model.safetensors",
        "config.json",
        result.card,
    ):
        assert part in shown
    assert f"{(folder / 'model.safetensors').stat().st_size:,} bytes" in shown
    done = send(folder=folder, revision="v1")
    assert (result.sizes, result.card, result.config) == (done.sizes, done.card, done.config)


def damaged(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def misdescribed(folder):
    """Checksum and config are sound, but they are not of one network."""
    config = aigciqa.metric_info(folder)
    (folder / "config.json").write_text(config.with_(reference="full").to_json())


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: damaged(folder, "model.safetensors"), "wrong checksum"),
        (lambda folder: damaged(folder, "config.json"), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "not a checkpoint"),
        (misdescribed, "do not fit the config"),
    ],
)
def test_a_damaged_checkpoint_is_refused_before_any_request(hub, send, tiny, harm, reason):
    folder = tiny()
    harm(folder)
    with pytest.raises(CheckpointError, match=reason):
        send(folder=folder)
    assert hub.requests == []


@pytest.mark.parametrize("unknown", ["unknown", "Unknown", " ", "unknown (found on a disk)"])
@pytest.mark.parametrize("key", ["license", "labels"])
def test_license_and_labels_must_be_stated(hub, send, tiny, key, unknown):
    provenance = {"labels": "MOS", "license": "MIT", key: unknown}
    folder = tiny(provenance=provenance)
    with pytest.raises(CheckpointError, match=rf"the {key} of this checkpoint is .*state it with {key}='"):
        send(folder=folder)
    assert hub.requests == []
    published = send(folder=folder, **{key: "cc-by-4.0"})
    assert published.config.provenance == provenance | {key: "cc-by-4.0"}
    assert aigciqa.metric_info(folder).provenance == provenance


@pytest.mark.parametrize(
    ("repo", "revision"),
    [
        ("scorer", None),
        ("a/b/c", None),
        ("", None),
        ("a b/c", None),
        (REPO, "main"),
        (REPO, "v 1"),
        (REPO, ""),
    ],
)
def test_names_that_could_not_be_opened_are_refused(hub, send, repo, revision):
    with pytest.raises(CheckpointError, match=r"repo must be|revision must be"):
        send(repo, revision=revision)
    assert hub.requests == []


# -- the card


def header(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_card_says_what_matters(tiny):
    config = aigciqa.metric_info(tiny("full")).with_(
        repo=REPO,
        revision="v1",
        provenance={
            "labels": "MOS of 20 raters", "license": "CC-BY-4.0", "data": "PKU-I2IQA", "split": "group",
            "base_model": "timm/resnet18.tv_in1k",
        },
    )  # fmt: skip
    card = model_card(config, notes="Beware.")
    assert header(card) == {
        "license": "cc-by-4.0",
        "library_name": "aigciqa",
        "tags": ["image-quality-assessment", "aigc", "fr-iqa"],
        "base_model": "timm/resnet18.tv_in1k",
    }
    title, first, notes = card.split("---\n")[2].split("\n\n")[:3]
    assert (title, first, notes) == (
        "# tiny-full",
        "This checkpoint learned from MOS of 20 raters.",
        "Beware.",
    )
    for part in (
        'aigciqa.create_metric("someone/scorer@v1")("gen.png", "ref.png")',
        "aigciqa-score gen.png --ref ref.png --metric someone/scorer@v1",
        "quality, authenticity; 0 to 5, higher is better",
        "image prompt that it was made from; generated first",
        "shorter side to 72 pixels, centre crop of 64, mean [0.485, 0.456, 0.406]",
        f"SHA-256 `{config.sha256}`",
        "**data**: PKU-I2IQA",
        "**split**: group",
    ):
        assert part in card
    assert "## Accuracy" not in card
    alone = model_card(config.with_(reference="none"), source="mine")
    assert 'aigciqa.create_metric("mine")("gen.png")\n' in alone
    assert "aigciqa-score gen.png --metric mine\n" in alone


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("cc-by-nc-sa-4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("Our Own: v2!", {"license": "other", "license_name": "our-own-v2"}),
        ("mit\nfoo: bar", {"license": "other", "license_name": "mit-foo-bar"}),
    ],
)
def test_card_is_what_the_hub_accepts(send, license, expected):
    published = send(license=license, labels="MOS: ours\n---\nhidden: yes")
    found = header(published.card)
    assert {key: found[key] for key in found if key.startswith("license")} == expected
    assert "This checkpoint learned from MOS: ours --- hidden: yes.\n" in published.card


def table(card):
    lines = [line for line in card.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_accuracy_with_its_intervals(send, tiny, tmp_path):
    folder = tiny()
    (folder / "evaluation.json").write_text(json.dumps({"PKU-I2IQA": {"quality": RESULT}}))
    heads, rule, row = table(send(folder=folder, dry_run=True).card)
    assert heads == ["labels", "pictures", "SRCC", "KRCC", "PLCC", "RMSE", "pairwise accuracy"]
    assert set(rule) == {"---"}
    assert row == [
        "PKU-I2IQA quality", "400", "0.706 (0.650 to 0.752)", "0.500", "0.725 (0.660 to 0.780)",
        "0.610 (0.550 to 0.680)", "-",
    ]  # fmt: skip
    # what is given goes before what lies in the folder
    given = {"authenticity": RESULT, "correspondence": RESULT | {"n": 9}}
    (tmp_path / "given.json").write_text(json.dumps(given))
    for evaluation in (given, tmp_path / "given.json"):
        rows = table(send(folder=folder, dry_run=True, evaluation=evaluation).card)[2:]
        assert [row[:2] for row in rows] == [
            ["authenticity", "400"],
            ["correspondence (scored by quality)", "9"],
        ]
    both = send(folder=folder, dry_run=True, table="| a |\n|---|\n| 1 |").card
    assert table(both)[-1] == ["1"]


def test_an_evaluation_of_another_config_is_refused(send, tiny):
    folder = tiny()
    config = aigciqa.metric_info(folder)
    of = {"metric": config.name, "sha256": config.sha256, "config": config.stamp.partition(" config:")[2]}
    (folder / "evaluation.json").write_text(json.dumps(of | {"figures": {"quality": RESULT}}))
    assert len(table(send(folder=folder, dry_run=True).card)) == 3
    other = config.with_(transform=Transform(72, 64, mean=(0.3, 0.3, 0.3)))
    (folder / "config.json").write_text(other.to_json())
    with pytest.raises(CheckpointError, match="of these weights with another config; evaluate again"):
        send(folder=folder, dry_run=True)


def test_accuracy_of_a_real_evaluation(send):
    pytest.importorskip("scipy")
    from aigciqa.training.evaluation import evaluate

    result = evaluate([1, 2, 3, 4, 5, 6], [1.2, 1.1, 2.5, 3.5, 4.4, 4.0], bootstrap=50)
    row = table(send(dry_run=True, evaluation={"quality": result.to_dict()}).card)[2]
    assert row[2].startswith("0.886 (")
    assert float(row[5].split()[0]) == pytest.approx(result.rmse, abs=5e-4)


@pytest.mark.parametrize("content", ["{}", "[1]", "{", '{"quality": 1}', '{"quality": {"srcc": 1}}', '"x"'])
def test_what_is_no_evaluation_is_refused(hub, send, tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="evaluation"):
        send(evaluation=path)
    with pytest.raises(CheckpointError, match="evaluation"):
        send(evaluation=tmp_path / "none.json")
    assert hub.requests == []
