"""The one error family of the checker, and the one table that maps it to gRPC status codes.

A message is a sentence for the person who must act: it names the field, file or setting and the remedy. It never holds
a document number, a name, or any value a caller sent.
"""

import grpc


class CheckerError(Exception):
    """Base of everything the checker raises on purpose; `str(error)` is safe to log and to show."""

    status = grpc.StatusCode.INTERNAL


class UsageError(CheckerError):
    """A flag, setting, file or environment variable is wrong; commands exit 2."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class InvalidRequest(CheckerError):
    """A request is malformed. `violations` are (field path, what is wrong and the remedy), at least one."""

    status = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, violations: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {text}" for field, text in violations))
        self.violations = violations


class PermissionDenied(CheckerError):
    """The caller's role does not cover the call; the message names what is missing."""

    status = grpc.StatusCode.PERMISSION_DENIED


class NotFound(CheckerError):
    """What was asked for is not there, or no longer."""

    status = grpc.StatusCode.NOT_FOUND


class Overloaded(CheckerError):
    """No room now, or the caller's quota is used up: answered at once instead of queueing.

    `retry_s`: seconds after which to come back, for google.rpc.RetryInfo; 0: the caller's own backoff will do.
    """

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, text: str, retry_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_s = retry_s


class DeadlineTooShort(CheckerError):
    """The time left is less than an answer takes: refused at once."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class IndexUnavailable(CheckerError):
    """The exact index did not answer in time, or may not be trusted just now. Hits become UNKNOWN, never a failure."""

    status = grpc.StatusCode.UNAVAILABLE


class IndexRefused(CheckerError):
    """The index refuses this use: other digest key, another importer at work, wrong version. Needs a person."""

    status = grpc.StatusCode.FAILED_PRECONDITION
