"""Claims about errors: one family, each with the status a caller can act on."""

import grpc
import pytest

from checker import errors


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.CheckerError, grpc.StatusCode.INTERNAL),
        (errors.UsageError, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
        (errors.NotFound, grpc.StatusCode.NOT_FOUND),
        (errors.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineTooShort, grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.IndexUnavailable, grpc.StatusCode.UNAVAILABLE),
        (errors.IndexRefused, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_each_error_has_its_status(kind: type[errors.CheckerError], status: grpc.StatusCode) -> None:
    """A caller can tell its own mistake, a missing right, overload, lateness and an outage apart."""
    assert issubclass(kind, errors.CheckerError)
    assert kind.status is status


def test_no_error_is_without_a_status_of_its_own() -> None:
    """Every class of the family is in the table above: none falls back to INTERNAL unnoticed."""
    family = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CheckerError)
    }

    assert all("status" in vars(kind) for kind in family)
    assert len(family) == 9


def test_an_invalid_request_says_every_field() -> None:
    """The sentence lists each field with what is wrong, in order."""
    error = errors.InvalidRequest([("a.b", "is required"), ("c", "is too long")])

    assert str(error) == "a.b: is required; c: is too long"
    assert error.violations == [("a.b", "is required"), ("c", "is too long")]
