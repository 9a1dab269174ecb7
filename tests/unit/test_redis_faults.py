"""Some errors show that Redis is away. Each other error is a fault of one kind."""

from __future__ import annotations

import ssl

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,  # noqa: A004
)
from structlog.testing import capture_logs

from domain.adapters.redis.faults import (
    EXPLANATIONS,
    FaultKind,
    Faults,
    PrimaryUnknown,
    WrongProtocol,
    classify_error,
)
from tests.case_tables import for_each


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__context__ = cause
    return error


ERRORS: dict[FaultKind, list[Exception]] = {
    FaultKind.CREDENTIALS: [
        AuthenticationError("invalid username-password pair or user is disabled."),
        AuthenticationError("Authentication required."),
        ResponseError("WRONGPASS invalid username-password pair"),
    ],
    FaultKind.PERMISSION: [
        NoPermissionError("User limited has no permissions to run the 'info' command"),
        ResponseError("NOPERM No permissions to access a key"),
    ],
    FaultKind.CLUSTER: [
        ResponseError("MOVED 3999 127.0.0.1:6381"),
        ResponseError("ASK 3999 127.0.0.1:6381"),
        ResponseError("CROSSSLOT Keys in request don't hash to the same slot"),
        ResponseError("TRYAGAIN Multiple keys request during rehashing of slot"),
    ],
    FaultKind.CLUSTER_DOWN: [ResponseError("CLUSTERDOWN Hash slot not served")],
    FaultKind.READ_ONLY: [
        ReadOnlyError("You can't write against a read only replica."),
        ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"),
    ],
    FaultKind.FULL: [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ResponseError(
            "Error running script (call to f_1): @user_script:1: -OOM command not allowed"
        ),
        caused(
            ResponseError("Command # 1 (SET key BUSY MOVED) of pipeline caused error: OOM full"),
            OSError(),
        ),
    ],
    FaultKind.CANNOT_SAVE: [
        ResponseError("MISCONF Redis is configured to save RDB snapshots, but it is unable to"),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
    ],
    FaultKind.LOADING: [
        BusyLoadingError("Redis is loading the dataset in memory"),
        ResponseError("MASTERDOWN Link with MASTER is down"),
    ],
    FaultKind.BUSY: [ResponseError("BUSY Redis is busy running a script.")],
    FaultKind.CONNECTIONS: [ConnectionError("max number of clients reached")],
    FaultKind.DATABASE_NUMBER: [
        ResponseError("DB index is out of range"),
        ResponseError("SELECT is not allowed in cluster mode"),
    ],
    FaultKind.COMMAND: [ResponseError("unknown command 'EVAL', with args beginning with: ")],
    FaultKind.OTHER: [ResponseError("something new")],
    FaultKind.PROTOCOL: [
        InvalidResponse("Protocol Error: 'H'"),
        WrongProtocol(),
        caused(ConnectionError("Error 1"), ssl.SSLError(1, "WRONG_VERSION_NUMBER")),
    ],
    FaultKind.SENTINEL: [PrimaryUnknown()],
    FaultKind.CERTIFICATE: [
        caused(ConnectionError("Error 1"), ssl.SSLCertVerificationError(1, "self-signed")),
    ],
}
REFUSALS = [(error, kind) for kind, errors in ERRORS.items() for error in errors]


@for_each(("error", "kind"), REFUSALS, ids=[str(error)[:40] for error, _ in REFUSALS])
def test_each_refusal_of_redis_is_a_fault_of_one_kind(error: Exception, kind: FaultKind) -> None:
    assert classify_error(error) is kind


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Error 111 connecting to r.example:6379. Connection refused."),
        ConnectionError("Connection closed by server."),
        TimeoutError("Timeout reading from r.example:6379"),
        OSError("No route to host"),
        TimeoutError(),
    ],
)
def test_a_server_that_does_not_answer_is_away(error: Exception) -> None:
    assert classify_error(error) is None


def test_every_kind_of_fault_has_a_remedy() -> None:
    assert EXPLANATIONS.keys() == set(FaultKind)


def test_a_fault_is_logged_once_until_it_is_over() -> None:
    faults = Faults()
    with capture_logs() as logs:
        for use in ("wake-ups", "copies") * 50:
            assert faults.record_failure(use, OutOfMemoryError("full")) is FaultKind.FULL
    assert [line["event"] for line in logs] == ["redis_refuses"]
    assert logs[0]["remedy"] == EXPLANATIONS[FaultKind.FULL].remedy
    assert faults.report.startswith("refuses: full: ")


def test_no_text_of_an_error_is_repeated() -> None:
    faults = Faults()
    with capture_logs() as logs:
        faults.record_failure(
            "copies",
            ResponseError("Command # 1 (SET k 254711000111) of pipeline caused error: OOM"),
        )
        faults.record_failure("bell", NoPermissionError("User s3cret-user has no permissions"))
    assert "254711000111" not in str(logs) + faults.report
    assert "s3cret" not in str(logs) + faults.report


@pytest.mark.parametrize(
    ("error", "success", "writes", "is_over"),
    [
        (NoPermissionError("x"), "bell", True, False),
        (NoPermissionError("x"), "copies", True, True),
        (OutOfMemoryError("x"), "reading copies", False, False),
        (OutOfMemoryError("x"), "wake-ups", True, True),
        (AuthenticationError("x"), "reading copies", False, True),
        (BusyLoadingError("x"), "reading copies", False, True),
        (ReadOnlyError("x"), "probe", True, True),
        (ResponseError("CROSSSLOT x"), "bell", True, False),
    ],
)
def test_a_fault_is_over_when_the_blocked_use_works(
    error: Exception, success: str, writes: bool, is_over: bool
) -> None:
    faults = Faults()
    faults.record_failure("copies", error)
    faults.record_success(success, is_write=writes)
    assert (faults.report == "ok") is is_over


def test_a_fault_that_comes_and_goes_is_logged_once_and_reported_each_time() -> None:
    faults = Faults()
    with capture_logs() as logs:
        for _ in range(50):
            faults.record_failure("copies", ConnectionError("max number of clients reached"))
            assert faults.kinds == [FaultKind.CONNECTIONS]
            faults.record_success("copies", is_write=True)
            assert faults.kinds == []
            faults.record_failure("copies", ConnectionError("refused"))
            assert faults.report == "away"
            faults.record_success("copies", is_write=True)
    assert [line["event"] for line in logs] == [
        "redis_refuses", "redis_refuses_no_more", "redis_away", "redis_answers",
    ]  # fmt: skip
