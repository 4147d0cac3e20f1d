"""The exceptions: one class for each kind of error that the server knows.

Catch `AnabranchError` for all of them. `kind` is the kind's name on the wire; `details` holds the same as the message for programs, or `None`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .results import ConflictingKey

__all__ = [
    "AnabranchError",
    "Conflict",
    "Exhausted",
    "FailedPrecondition",
    "Forbidden",
    "Internal",
    "InvalidArgument",
    "MergeConflict",
    "NotFound",
    "Unauthenticated",
    "Unavailable",
]


class AnabranchError(Exception):
    """What went wrong, where, and what to do."""

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.details = details


class InvalidArgument(AnabranchError, ValueError):
    """The request itself is wrong; repeating it cannot help."""

    kind = "invalid_argument"


class Unauthenticated(AnabranchError):
    """The caller did not say who it is."""

    kind = "unauthenticated"


class Forbidden(AnabranchError):
    """The caller is known and may not do this."""

    kind = "forbidden"


class NotFound(AnabranchError, LookupError):
    """What was named does not exist."""

    kind = "not_found"


class Conflict(AnabranchError):
    """It collides with what is there, or with what another writer did meanwhile."""

    kind = "conflict"


class MergeConflict(Conflict):
    """Both sides of a merge, revert or cherry-pick changed the same keys. Nothing was changed."""

    @property
    def conflicts(self) -> tuple[ConflictingKey, ...]:
        """The keys with the values of both sides: the first 1,000."""
        return tuple(ConflictingKey(**key) for key in self.details["conflicts"])

    @property
    def total(self) -> int:
        """How many keys there are."""
        return int(self.details["total"])


class FailedPrecondition(AnabranchError):
    """The state of the system forbids it until something else is done first."""

    kind = "failed_precondition"


class Exhausted(AnabranchError):
    """A limit or a resource is used up: too large, too many, disk full."""

    kind = "exhausted"


class Unavailable(AnabranchError, ConnectionError):
    """The server, or what it depends on, cannot be reached just now; trying again may help."""

    kind = "unavailable"


class Internal(AnabranchError):
    """A defect of Anabranch."""

    kind = "internal"


_BY_KIND: dict[str, type[AnabranchError]] = {
    error.kind: error
    for error in (
        InvalidArgument,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        FailedPrecondition,
        Exhausted,
        Unavailable,
        Internal,
    )
}


def of_kind(kind: str, message: str, details: Any) -> AnabranchError:
    """The exception for an error of a kind; called from the native half."""
    if kind == Conflict.kind and isinstance(details, dict) and "conflicts" in details:
        return MergeConflict(message, details)
    return _BY_KIND.get(kind, Internal)(message, details)
