"""The Hugging Face Hub: fetching and uploading the files of a model, with errors in one line.

Address, token and cache are where the package `huggingface_hub` looks for them: `HF_ENDPOINT`,
`HF_TOKEN` or what `hf auth login` has stored, and `HF_HOME`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from anytime_ar.errors import BundleError, InputError, MissingExtraError, install_command

_HUB_REF = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?")


class HubRef(NamedTuple):
    """Where a model is on the Hub; as text `owner/name` or `owner/name@revision`."""

    repo_id: str
    revision: str | None = None
    """Branch, tag or commit; None: the newest state."""

    def __str__(self) -> str:
        return self.repo_id + (f"@{self.revision}" if self.revision is not None else "")


def parse_hub_ref(name: str) -> HubRef | None:
    """The place that a name means; None for a name that cannot be one."""
    found = _HUB_REF.fullmatch(name)
    return None if found is None else HubRef(*found.groups())


def download_snapshot(ref: HubRef, files: Collection[str]) -> Path:
    """The folder in the Hub's cache with those of `files` that the repository has, and no others.

    What the cache has is not fetched again, and does without a network.

    Raises:
        BundleError: there is no such repository or revision, it may not be read, or the Hub cannot
            be reached and the cache does not have it.
        MissingExtraError: the extra `hub` is not installed.
    """
    library = import_huggingface_hub(f"{str(ref)!r} is no folder here; to fetch it from the Hub")
    try:
        return Path(
            library.snapshot_download(
                ref.repo_id, revision=ref.revision, allow_patterns=sorted(files)
            )
        )
    except Exception as error:  # errors of its HTTP library come through, and that library changes
        raise BundleError(
            f"no model {str(ref)!r}: not a folder here, and none from the Hub: "
            f"{_explain_hub_error(error, ref)}"
        ) from error


def upload_files(
    ref: HubRef,
    files: Mapping[str, Path],
    *,
    managed_names: Collection[str],
    private: bool,
    message: str,
) -> HubRef:
    """Put files into a repository with one commit, and return the place of exactly this state.

    Readers see the state before or the new one, and an upload that is cut off leaves the former.
    Where nothing would change there is no new commit.

    Args:
        ref: the repository, and the branch if it is not the main one; made if there is none.
        files: what to upload, by name in the repository.
        managed_names: names of which the repository keeps those in `files` alone.
        private: make the repository private if it is made here.
        message: of the commit.

    Raises:
        InputError: the Hub refuses it or cannot be reached, or a repository that should be private
            is not.
        MissingExtraError: the extra `hub` is not installed.
    """
    library = import_huggingface_hub("to push to the Hub")
    repository, branch = ref
    api = library.HfApi()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise InputError(
                f"cannot push to {ref} in private: it is public; change that in its settings, "
                "or leave private out"
            )
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        state = api.model_info(repository, revision=branch)
        there = {sibling.rfilename for sibling in state.siblings or ()}
        gone = sorted(there & set(managed_names) - files.keys())
        changes = [library.CommitOperationAdd(name, path) for name, path in files.items()]
        changes += [library.CommitOperationDelete(name) for name in gone]
        commit = api.create_commit(
            repository,
            changes,
            commit_message=message,
            revision=branch,
            parent_commit=state.sha,  # whatever others push meanwhile is not overwritten
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot push to {ref}: {_explain_hub_error(error, ref)}") from error
    return HubRef(repository, commit.oid)


def import_huggingface_hub(purpose: str) -> ModuleType:
    """Return the package `huggingface_hub`.

    Raises:
        MissingExtraError: the extra `hub` is not installed; the message begins with `purpose`.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose}, install huggingface_hub: {install_command('hub')}"
        ) from error
    return huggingface_hub


def _explain_hub_error(error: Exception, ref: HubRef) -> str:
    """What is wrong, and what to do about it, in one line."""
    from huggingface_hub import errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        return "access has to be granted first; ask for it on the page of the repository"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "no such repository, or a private one; check the name, and for a private one log in "
            "with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"no revision {ref.revision!r}; pass a branch, a tag or a whole commit hash"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "it cannot be reached, and the cache has no complete copy; check the network"
    if status == 401:
        return "it wants a valid token; log in with `hf auth login` or set HF_TOKEN"
    if status == 403:
        return f"your token does not permit it; use one that may write to {ref.repo_id}"
    if status == 412:
        return "someone else has pushed meanwhile; look at what is there, and push again"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{reason}; check the name and the network"
