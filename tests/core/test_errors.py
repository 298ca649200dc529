"""Typed errors: each has a code of its own, and the client knows them all by the same code and exit code."""

from __future__ import annotations

import pickle

from vatt_client import errors as client_errors

from vatt_core import errors


def kinds() -> list[type[errors.VattError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.VattError)]


def test_every_error_has_a_code_of_its_own_and_ends_a_command_with_a_failure() -> None:
    codes = [kind.code for kind in kinds()]
    assert len(set(codes)) == len(codes)
    assert all(0 < kind.exit_code < 256 for kind in kinds())


def test_an_error_carries_its_message_and_what_it_speaks_of() -> None:
    for kind in kinds():
        error = kind("It went wrong with x. Try y.", field="x")
        assert error.message == str(error) == "It went wrong with x. Try y."
        assert error.details == {"field": "x"}
        assert isinstance(pickle.loads(pickle.dumps(error)), kind)


def test_the_client_raises_the_same_kind() -> None:
    for kind in kinds():
        told = client_errors.from_wire({"code": kind.code, "message": "m", "details": {}})
        assert told.code == kind.code
        assert told.exit_code == kind.exit_code
        assert told.retryable == kind.retryable
