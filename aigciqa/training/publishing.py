"""Publish a checkpoint in a Hugging Face Hub repository, with the model card that says what it is."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..config import MetricConfig, read_config
from ..errors import CheckpointError, Parameter
from ..model import open_network
from ..weights import CONFIG, WEIGHTS, Source
from .card import model_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD, EVALUATION = "README.md", "evaluation.json"


@dataclass(frozen=True)
class Publication:
    """What was published, or would be. As text: the files, and the card.

    Args:
        repo: the Hub repository.
        config: as published.
        sizes: of the files, in bytes, by name.
        card: text of the model card.
        commit: on the Hub; None after a dry run.
    """

    repo: str
    config: MetricConfig
    sizes: dict[str, int]
    card: str
    commit: str | None = None

    @property
    def source(self) -> str:
        """What `create_metric` takes."""
        return self.repo + (f"@{self.config.revision}" if self.config.revision else "")

    def __str__(self) -> str:
        done = f"published as commit {self.commit}" if self.commit else "not published (dry run)"
        files = "\n".join(f"  {size:>12,} bytes  {name}" for name, size in self.sizes.items())
        return f"{self.source}: {done}\n{files}\n\n{self.card}"


def publish(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    revision: str | None = None,
    private: bool = False,
    token: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    license: str | None = None,
    labels: str | None = None,
    evaluation: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    table: str | None = None,
) -> Publication:
    """Upload a checkpoint and its model card in one commit, and tag it.

    The folder stays as it is. Nothing is sent before the checkpoint was found to be sound.

    Args:
        folder: the checkpoint.
        repo: ``org/name`` on the Hub; made if missing.
        revision: tag of this version, such as ``"v1"``; None for no tag. A tag is never moved.
        private: make the repository private; one that is there and public is then refused.
        token: one that may write; None for the one that ``hf auth login`` saved or `HF_TOKEN`.
        message: of the commit; None for a sentence that names the version.
        dry_run: only say what would be published, without any request.
        license: of the weights; None for the config's.
        labels: what the checkpoint learned from, in words; None for the config's.
        evaluation: figures for the card, see `model_card`; None for ``evaluation.json`` in the folder, if there.
        table: a Markdown table of further results, for the card.

    Raises:
        CheckpointError: when the checkpoint is damaged, lacks a licence or a statement of its labels, when the
            tag is there already, or when the Hub refuses.

    Examples:
        >>> from aigciqa.weights import PACKAGED
        >>> planned = publish(PACKAGED / "nr-aigciqa", "someone/scorer", revision="v1", dry_run=True)
        >>> planned.source, list(planned.sizes)
        ('someone/scorer@v1', ['config.json', 'model.safetensors', 'README.md'])
    """
    folder = Path(folder).expanduser()
    _check_names(repo, revision)
    config = read_config(folder)
    given = {"license": license, "labels": labels}
    provenance = config.provenance | {key: value for key, value in given.items() if value is not None}
    _check_stated(provenance)
    open_network(config, Source(str(folder), folder=folder))
    config = config.with_(repo=repo, revision=revision, provenance=provenance)
    if evaluation is None and (folder / EVALUATION).is_file():
        evaluation = folder / EVALUATION
    card = model_card(config, evaluation=evaluation, table=table)
    files: dict[str, bytes | Path] = {
        CONFIG: config.to_json().encode(),
        WEIGHTS: folder / WEIGHTS,
        CARD: card.encode(),
    }
    sizes = {n: f.stat().st_size if isinstance(f, Path) else len(f) for n, f in files.items()}
    planned = Publication(repo, config, sizes, card)
    if dry_run:
        return planned
    commit = _upload(
        planned, files, private, token, message or f"aigciqa checkpoint {revision or config.name}"
    )
    return Publication(repo, config, sizes, card, commit)


def _check_names(repo: str, revision: str | None) -> None:
    """Only names that `create_metric` can open."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo, re.ASCII):
        raise CheckpointError(f"repo must be org/name or user/name, not {repo!r}")
    if revision is not None and (
        not re.fullmatch(r"\w[\w.-]{0,95}", revision, re.ASCII) or revision == "main"
    ):
        raise CheckpointError(
            f"revision must be a tag of letters, digits, '.', '-' and '_', not {revision!r}"
        )


def _check_stated(provenance: Mapping[str, str]) -> None:
    for key, example in (("license", "Apache-2.0"), ("labels", "mean opinion scores of 20 raters")):
        stated = provenance[key].strip().lower()
        if not stated or stated.startswith("unknown"):
            raise CheckpointError(
                f"not published: the {key} of this checkpoint is {provenance[key]!r}; state it with ",
                Parameter(key, shlex.quote(example), repr(example)),
                f", or under provenance in its {CONFIG}",
            )


def _upload(
    planned: Publication, files: Mapping[str, bytes | Path], private: bool, token: str | None, message: str
) -> str:
    """One commit, then its tag. Returns the commit."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name="aigciqa", library_version=__version__)
    repo, revision, done = planned.repo, planned.config.revision, "nothing was published"
    try:
        _prepare_repo(api, repo, revision, private)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repo, additions, commit_message=message).oid
        done = f"the files are there as commit {commit}, but without the tag {revision}"
        if revision is not None:
            api.create_tag(repo, tag=revision, revision=commit)
    except CheckpointError:
        raise
    except Exception as error:  # the client raises its HTTP library's errors as they come
        raise CheckpointError(_advice(repo, done, error)) from error
    return commit


def _prepare_repo(api: "HfApi", repo: str, revision: str | None, private: bool) -> None:
    api.create_repo(repo, private=private, exist_ok=True)
    if private and not api.repo_info(repo).private:
        raise CheckpointError(
            f"nothing was published: {repo} is there already and public; make it private in its settings on the "
            "Hub, or publish to another"
        )
    refs = api.list_repo_refs(repo)
    if revision in {ref.name for ref in [*refs.tags, *refs.branches]}:
        raise CheckpointError(
            f"nothing was published: {repo} has {revision} already, and what is published under a name stays; "
            "choose the next version"
        )


def _advice(repo: str, done: str, error: Exception) -> str:
    from huggingface_hub import constants

    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client wraps what goes wrong with a large file
    status: int = getattr(getattr(error, "response", None), "status_code", 0)
    advice = {
        401: "log in with `hf auth login`, or pass token= or set HF_TOKEN; the token must be allowed to write",
        403: f"this token may not write to {repo}: use one with write permission, of a member of "
        f"{repo.split('/')[0]}",
        409: "the Hub holds something of this name already; look at it there",
    }.get(status, "check the network and HF_HUB_OFFLINE, and try again")
    if isinstance(error, ValueError) and status in (0, 400):
        advice = "correct what it names, and try again"
    reason = " ".join(str(error).split())
    return (
        f"cannot publish to {repo} on the Hugging Face Hub at {constants.ENDPOINT}; {done}.\n"
        f"  cause: {type(error).__name__}: {reason}\n  {advice}"
    )
