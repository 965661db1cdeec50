"""What goes wrong with Hugging Face's hub, in the user's words."""

import errno

from firstlight.errors import shorten


def hub_reason(error: Exception, revision: str | None) -> str:
    """Say in one line why the hub's client failed."""
    import httpx2  # the hub's client, some of whose errors it does not translate
    from huggingface_hub import constants, errors

    # "Not in the cache either" hides what the server has answered, which is the cause.
    cause = None
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__
    if isinstance(cause, errors.HfHubHTTPError):
        error = cause
    unreachable = f"{constants.ENDPOINT} cannot be reached"
    # The first class that fits: some are derived from others.
    reasons = {
        errors.HFValidationError: "a repository is called owner/name",
        errors.GatedRepoError: "it is gated: ask for access on its page, then `hf auth login`",
        errors.RevisionNotFoundError: f"it has no revision {revision!r}",
        errors.RepositoryNotFoundError: (
            "no such repository, or it is private (then use `hf auth login`)"
        ),
        errors.IncompleteSnapshotError: f"an earlier download was not finished, and {unreachable}",
        errors.LocalEntryNotFoundError: (
            f"it was not downloaded before, and {unreachable} ({type(cause).__name__})"
        ),
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"access is refused ({status}; `hf auth login` may help)"
        return f"{constants.ENDPOINT} answers {status}"
    if isinstance(error, httpx2.TransportError):
        return f"{unreachable} ({type(error).__name__})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left in {constants.HF_HUB_CACHE} (HF_HOME moves it)"
    lines = str(error).splitlines() or [type(error).__name__]
    return shorten(lines[0], 120)  # the other lines are advice for programmers
