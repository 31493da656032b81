"""Download and upload the files of a model on the Hugging Face Hub, with errors of one line.

`huggingface_hub` finds endpoint, token and cache: in `HF_ENDPOINT`, in `HF_TOKEN` or what `hf auth
login` stored, and in `HF_HOME`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from anytime_ar.errors import BundleError, InputError, require_extras

_HUB_REF = re.compile(r"(?!.*\.\.)([\w-][\w.-]*/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?")


class HubRef(NamedTuple):
    """A reference to a model on the Hub; as text `owner/name` or `owner/name@revision`."""

    repo_id: str
    """Repository on the Hub, as `owner/name`."""
    revision: str | None = None
    """Branch, tag or commit; None for the latest commit."""

    def __str__(self) -> str:
        """Return `owner/name`, with `@revision` if there is one."""
        return self.repo_id + (f"@{self.revision}" if self.revision is not None else "")


def parse_hub_ref(name: str) -> HubRef | None:
    """Parse a name as a reference to the Hub; return None if it cannot be one."""
    found = _HUB_REF.fullmatch(name)
    return None if found is None else HubRef(*found.groups())


def download_snapshot(ref: HubRef, files: Collection[str]) -> Path:
    """Download those of `files` that a repository has, and return their folder in the Hub's cache.

    Files in the cache are not downloaded again, and need no network.

    Args:
        ref: the repository and revision.
        files: names of the files.

    Raises:
        BundleError: there is no such repository or revision, access is denied, or the Hub cannot be
            reached and the cache has no copy.
        MissingExtraError: the extra `hub` is not installed.
    """
    library = import_huggingface_hub(f"{str(ref)!r} is no folder here; fetching it from the Hub")
    try:
        return Path(
            library.snapshot_download(
                ref.repo_id, revision=ref.revision, allow_patterns=sorted(files)
            )
        )
    except Exception as error:  # its HTTP library's errors differ between versions
        raise BundleError(
            f"no model {str(ref)!r}: not a folder here, and none from the Hub: "
            f"{_explain_hub_error(error, ref)}"
        ) from error


def download_file(ref: HubRef, name: str, what: str) -> Path:
    """Return the path of a file of a repository in the Hub's cache.

    A file of a commit that is in the cache is not downloaded again, and needs no network.

    Args:
        ref: the repository and revision.
        name: name of the file.
        what: what the file is for, as a noun; the beginning of the message.

    Raises:
        BundleError: there is no such repository, revision or file, access is denied, or the Hub
            cannot be reached and the cache has no copy.
        MissingExtraError: the extra `hub` is not installed.
    """
    library = import_huggingface_hub(f"{what}, which is stored as {ref} on the Hub,")
    try:
        return Path(library.hf_hub_download(ref.repo_id, name, revision=ref.revision))
    except Exception as error:  # its HTTP library's errors differ between versions
        raise BundleError(
            f"{what} is stored as {name} in {ref} on the Hub, which cannot be fetched: "
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
    """Upload files to a repository in one commit, and return the reference of that commit.

    Readers see the state before or after the commit; an interrupted upload changes nothing. If
    nothing changes, there is no new commit.

    Args:
        ref: the repository, and the branch if it is not the main one; created if missing.
        files: paths of the files to upload, by name in the repository.
        managed_names: names that are removed from the repository if they are not in `files`.
        private: create the repository as private if it is missing.
        message: commit message.

    Raises:
        InputError: the Hub refuses the upload or cannot be reached, or a repository that should be
            private is public.
        MissingExtraError: the extra `hub` is not installed.
    """
    library = import_huggingface_hub("a push to the Hub")
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
            parent_commit=state.sha,  # refuses to overwrite a push by others meanwhile
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot push to {ref}: {_explain_hub_error(error, ref)}") from error
    return HubRef(repository, commit.oid)


def import_huggingface_hub(purpose: str) -> ModuleType:
    """Import the package `huggingface_hub`.

    Args:
        purpose: what needs it, as a noun; the beginning of the message.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
    """
    require_extras(purpose, "hub", module="huggingface_hub")
    import huggingface_hub

    return huggingface_hub


def _explain_hub_error(error: Exception, ref: HubRef) -> str:
    """Return one line that says what is wrong and what to do next."""
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
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "no such file; ask the owner of the repository, or get another bundle"
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
