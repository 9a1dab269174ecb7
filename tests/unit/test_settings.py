"""The settings of each process, and the messages about missing and invalid ones."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import MigrationSettings, ProcessSettings, read_settings
from domain.adapters.settings.errors import SettingsError, raise_as_settings_error
from domain.adapters.settings.web import IngressSettings
from domain.adapters.settings.worker import WorkerSettings
from tests.certificates import LONG_AGO, certificate_pem

PROCESSES = (MigrationSettings, IngressSettings, CallbackSettings, WorkerSettings)
SHARED = {
    "DATABASE_URL": "postgresql://mkwanja:Db-Passw0rd@db.example/mkwanja",
    "REDIS_URL": "rediss://:Redis-Passw0rd@r.example",
}
INGRESS = {**SHARED, "SUPABASE_URL": "https://abc.supabase.example"}
CALLBACKS = {**SHARED, "CALLBACK_SECRETS": "Callback-S3cret-1,Callback-S3cret-2"}
SetEnvironment = Callable[..., None]


@cache
def pem(kind: str) -> bytes:
    if kind == "rsa":
        return certificate_pem(rsa.generate_private_key(65537, 2048), not_before=LONG_AGO)
    return certificate_pem(ec.generate_private_key(ec.SECP256R1()), not_before=LONG_AGO)


@pytest.fixture
def worker(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "daraja.pem"
    file.write_bytes(pem("rsa"))
    return {
        **CALLBACKS,
        "DARAJA_BASE_URL": "https://sandbox.daraja.example/",
        "DARAJA_CONSUMER_KEY": "Consumer-K3y",
        "DARAJA_CONSUMER_SECRET": "Consumer-S3cret",
        "DARAJA_SHORTCODE": "174379",
        "DARAJA_PASSKEY": "Pass-K3y",
        "DARAJA_INITIATOR_NAME": "testapi",
        "DARAJA_INITIATOR_PASSWORD": "Initiator-Passw0rd",
        "DARAJA_CERTIFICATE_FILE": str(file),
        "CALLBACK_BASE_URL": "https://pay.example.co.ke/in/",
    }


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> SetEnvironment:
    """Sets these variables, and unsets all others that a process reads."""

    def set_variables(values: dict[str, str], **more: str) -> None:
        for process in PROCESSES:
            for name in process.model_fields:
                monkeypatch.delenv(name.upper(), raising=False)
        for name, value in {**values, **more}.items():
            monkeypatch.setenv(name, value)

    return set_variables


def message_of(process: type[ProcessSettings]) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(process)
    text = str(caught.value)
    assert "\n" not in text
    return text


def names_in(text: str) -> set[str]:
    return {
        word.strip("(),;:")
        for word in text.split()
        if word.strip("(),;:").replace("_", "").isupper() and "_" in word
    }


WORKER_DEFAULTS = {
    "daraja_requests_per_second": 20,
    "sweep_interval_seconds": 1,
    "submitting_lease_seconds": 60,
    "inquiry_first_after_seconds": 30,
    "inquiry_interval_max_seconds": 300,
    "deposit_expires_after_seconds": 60,
    "bill_expires_after_seconds": 600,
    "payout_expires_after_seconds": 86_400,
    "daraja_stk_queries_per_minute": 5,
    "daraja_status_queries_per_minute": 60,
    "daraja_inquiries_per_minute": None,
    "deposit_result_window_seconds": 180,
    "not_found_trusted_after_seconds": 300,
    "worker_metrics_port": None,
    "daraja_payout_shortcode": "174379",
    "daraja_till": None,
}


def test_the_defaults_are_those_of_the_interface(
    set_environment: SetEnvironment, worker: dict[str, str]
) -> None:
    set_environment(INGRESS)
    web = read_settings(IngressSettings)
    assert (web.port, web.database_pool_size) == (8080, 10)
    assert (web.jwt_audience, web.log_level) == ("authenticated", "INFO")
    set_environment(CALLBACKS)
    receiver = read_settings(CallbackSettings)
    assert (receiver.port, receiver.trusted_proxies) == (8081, [])
    assert len(receiver.callback_allowed_networks) == 14
    set_environment(worker)
    settings = read_settings(WorkerSettings)
    assert {name: getattr(settings, name) for name in WORKER_DEFAULTS} == WORKER_DEFAULTS
    assert settings.daraja_base_url == "https://sandbox.daraja.example"
    assert settings.callback_base_url == "https://pay.example.co.ke/in"


@pytest.mark.parametrize(
    ("process", "missing"),
    [
        (MigrationSettings, "DATABASE_URL"),
        (
            IngressSettings,
            "DATABASE_URL REDIS_URL JWT_ISSUER SUPABASE_URL JWT_JWKS_URL JWT_SECRET",
        ),
        (CallbackSettings, "DATABASE_URL REDIS_URL CALLBACK_SECRETS"),
        (
            WorkerSettings,
            (
                "DATABASE_URL REDIS_URL DARAJA_BASE_URL DARAJA_CONSUMER_KEY DARAJA_CONSUMER_SECRET "
                "DARAJA_SHORTCODE DARAJA_PASSKEY DARAJA_INITIATOR_NAME DARAJA_INITIATOR_PASSWORD "
                "DARAJA_CERTIFICATE_FILE CALLBACK_BASE_URL CALLBACK_SECRETS"
            ),
        ),
    ],
)
def test_a_process_names_every_missing_setting_in_one_line(
    set_environment: SetEnvironment, process: type[ProcessSettings], missing: str
) -> None:
    set_environment({})
    text = message_of(process)
    assert text.startswith("cannot start; settings missing: ")
    assert names_in(text) == set(missing.split())


def test_an_empty_setting_counts_as_missing(set_environment: SetEnvironment) -> None:
    set_environment(dict.fromkeys(CALLBACKS, ""))
    assert names_in(message_of(CallbackSettings)) == set(CALLBACKS)


INVALID = {
    "DATABASE_URL": [
        *("mysql://db", "postgresql://", "db.example"),
        *("postgresql://db:port/x", "postgresql://[::1"),
    ],
    "DATABASE_POOL_SIZE": ["0", "-1", "many", "1.5", "9999"],
    "REDIS_URL": [
        *("http://r.example", "redis://", "r.example:6379"),
        *("redis+sentinel://r.example", "redis://r.example/zero", "redis://a:1,b:2/0"),
        *("redis://r.example?family=0", "rediss://r.example?ssl_cert_reqs=perhaps"),
        *("redis://r.example?db=x", "redis://r.example?retry=3"),
    ],
    "REDIS_CA_FILE": ["no-such-file.pem", "."],
    "REDIS_TLS_VERIFY": ["NONE", "off", "optional"],
    "LOG_LEVEL": ["LOUD"],
    "DARAJA_BASE_URL": [
        *("sandbox.daraja.example", "ftp://x.example", "https://", "https://x.example\n"),
    ],
    "DARAJA_SHORTCODE": ["1234", "12345678", "17437a"],
    "DARAJA_TILL": ["1234"],
    "DARAJA_PAYOUT_SHORTCODE": ["1234"],
    "DARAJA_REQUESTS_PER_SECOND": ["0", "-5", "fast", "nan"],
    "DARAJA_STK_QUERIES_PER_MINUTE": ["0", "-1", "often", "nan", "1000001"],
    "DARAJA_STATUS_QUERIES_PER_MINUTE": ["0", "-1", "often", "nan", "1000001"],
    "DARAJA_INQUIRIES_PER_MINUTE": ["0", "-1", "often", "nan", "1000001"],
    "DEPOSIT_RESULT_WINDOW_SECONDS": ["0", "-1", "x", "86401"],
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": ["0", "-1", "x", "86401"],
    "BREAKER_COOL_DOWN_SECONDS": ["0", "-1", "x", "3601"],
    "WORKER_METRICS_PORT": ["0", "65536", "x"],
    "DARAJA_CERTIFICATE_FILE": ["no-such-file.pem", "."],
    "CALLBACK_SECRETS": [",", "short", "long-enough-1,short", " , "],
    "SUBMITTING_LEASE_SECONDS": ["2.9", "601", "x"],
    "SWEEP_INTERVAL_SECONDS": ["0", "-1"],
    "DEPOSIT_EXPIRES_AFTER_SECONDS": ["0", "-1", "inf"],
    "CALLBACK_BASE_URL": [
        *("http://pay.example.co.ke", "https://Pay.example.co.ke", "https://pay.example.co.ke/A"),
        *("pay.example.co.ke", "https://mpesa.example.co.ke", "https://pay.example/m-pesa"),
        *("https://safaricom.example", "https://pay.example/exec", "https://pay.example/sql/in"),
        *("https://query.example", "https://pay.example/cmd", "https://pay.example/in?a=b"),
        *("https://pay.example/in#a", "ftp://localhost/x", "https://pay.example\n"),
        *("https://pay.example/a b", "https://pay.ex ample"),
    ],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in INVALID.items() for value in values]
)
def test_an_invalid_setting_is_the_only_one_named(
    set_environment: SetEnvironment, worker: dict[str, str], name: str, value: str
) -> None:
    set_environment(worker, **{name: value})
    text = message_of(WorkerSettings)
    assert text.startswith(f"cannot start; settings invalid: {name} (")
    assert names_in(text) == {name}


def test_missing_and_invalid_settings_are_named_together(
    set_environment: SetEnvironment, worker: dict[str, str]
) -> None:
    del worker["DARAJA_PASSKEY"], worker["REDIS_URL"]
    set_environment(worker, DARAJA_SHORTCODE="1", SUBMITTING_LEASE_SECONDS="1", DATABASE_URL="x")
    text = message_of(WorkerSettings)
    before, _, after = text.partition("invalid: ")
    assert names_in(before) == {"DARAJA_PASSKEY", "REDIS_URL"}
    assert names_in(after) == {"DARAJA_SHORTCODE", "SUBMITTING_LEASE_SECONDS", "DATABASE_URL"}


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8081", "http://127.0.0.1:8081/in", "http://[::1]:1", "https://pay.example"],
)
def test_the_callback_url_is_https_except_on_localhost(
    set_environment: SetEnvironment, worker: dict[str, str], url: str
) -> None:
    set_environment(worker, CALLBACK_BASE_URL=url)
    assert read_settings(WorkerSettings).callback_base_url == url


@pytest.mark.parametrize(
    "url", ["http://localhost.evil.example", "http://127.0.0.1.evil.example", "http://10.0.0.1"]
)
def test_no_other_host_passes_for_localhost(
    set_environment: SetEnvironment, worker: dict[str, str], url: str
) -> None:
    set_environment(worker, CALLBACK_BASE_URL=url)
    assert names_in(message_of(WorkerSettings)) == {"CALLBACK_BASE_URL"}


@pytest.mark.parametrize("content", [b"", b"not a certificate", pem("ec")])
def test_the_certificate_file_must_contain_an_rsa_certificate(
    set_environment: SetEnvironment, worker: dict[str, str], tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "other.pem"
    file.write_bytes(content)
    set_environment(worker, DARAJA_CERTIFICATE_FILE=str(file))
    assert names_in(message_of(WorkerSettings)) == {"DARAJA_CERTIFICATE_FILE"}


SECRETS = ("Passw0rd", "S3cret", "K3y")


def test_settings_never_print_a_value(
    set_environment: SetEnvironment, worker: dict[str, str]
) -> None:
    for process, values in (
        (IngressSettings, INGRESS),
        (CallbackSettings, CALLBACKS),
        (WorkerSettings, worker),
    ):
        set_environment(values)
        settings = read_settings(process)
        for text in (repr(settings), str(settings), f"{settings}"):
            assert text == process.__name__


@pytest.mark.parametrize(
    "name",
    [
        *("DATABASE_URL", "REDIS_URL", "CALLBACK_SECRETS", "CALLBACK_ALLOWED_NETWORKS"),
        *("TRUSTED_PROXIES", "PORT", "LOG_LEVEL"),
    ],
)
def test_a_message_contains_no_value_even_of_a_misplaced_secret(
    set_environment: SetEnvironment, name: str
) -> None:
    set_environment(CALLBACKS, **{name: "S3cret"})
    assert "S3cret" not in message_of(CallbackSettings)


def test_a_message_is_one_line_for_any_value(set_environment: SetEnvironment) -> None:
    set_environment(CALLBACKS, TRUSTED_PROXIES="10.0.0.0/8,a\nb", LOG_LEVEL="a\nb")
    assert names_in(message_of(CallbackSettings)) == {"TRUSTED_PROXIES", "LOG_LEVEL"}


def test_supabase_url_sets_key_set_and_issuer_by_its_conventions(
    set_environment: SetEnvironment,
) -> None:
    for url in ("https://abc.supabase.example", "https://abc.supabase.example/"):
        set_environment({**SHARED, "SUPABASE_URL": url})
        settings = read_settings(IngressSettings)
        assert settings.jwt_issuer == "https://abc.supabase.example/auth/v1"
        assert settings.jwt_jwks_url == "https://abc.supabase.example/auth/v1/.well-known/jwks.json"
        assert settings.jwt_secret is None


def test_an_explicit_setting_outranks_the_conventions(set_environment: SetEnvironment) -> None:
    set_environment(
        INGRESS,
        JWT_ISSUER="https://other.example",
        JWT_JWKS_URL="https://other.example/keys",
        JWT_AUDIENCE="shop",
    )
    settings = read_settings(IngressSettings)
    assert (settings.jwt_issuer, settings.jwt_jwks_url, settings.jwt_audience) == (
        "https://other.example", "https://other.example/keys", "shop",
    )  # fmt: skip


def test_a_legacy_secret_is_accepted_beside_the_projects_key_set(
    set_environment: SetEnvironment,
) -> None:
    """SUPABASE_URL sets the key set's URL (.env.example). A project that changes keys uses both."""
    set_environment(INGRESS, JWT_SECRET="x" * 32)
    settings = read_settings(IngressSettings)
    assert settings.jwt_secret == "x" * 32
    assert settings.jwt_jwks_url == "https://abc.supabase.example/auth/v1/.well-known/jwks.json"


def test_a_secret_alone_is_enough_to_verify_tokens(set_environment: SetEnvironment) -> None:
    set_environment(SHARED, JWT_SECRET="x" * 32, JWT_ISSUER="https://other.example")
    assert read_settings(IngressSettings).jwt_jwks_url is None


def test_a_short_secret_is_invalid(set_environment: SetEnvironment) -> None:
    set_environment(INGRESS, JWT_SECRET="S3cret" * 5)
    text = message_of(IngressSettings)
    assert names_in(text) == {"JWT_SECRET"}
    assert "S3cret" not in text


def test_lists_are_split_at_commas_and_trimmed(set_environment: SetEnvironment) -> None:
    set_environment(
        CALLBACKS,
        CALLBACK_SECRETS=" secret-one , secret-two,",
        TRUSTED_PROXIES="10.0.0.0/8, fd00::/8 ,192.0.2.7",
    )
    settings = read_settings(CallbackSettings)
    assert settings.callback_secrets == ["secret-one", "secret-two"]
    assert settings.trusted_proxies == [
        ipaddress.ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "192.0.2.7/32")
    ]


@pytest.mark.parametrize("value", ["10.0.0.1/8", "everything", "10.0.0.0/33", "*"])
def test_a_network_must_be_in_cidr_form(set_environment: SetEnvironment, value: str) -> None:
    set_environment(CALLBACKS, CALLBACK_ALLOWED_NETWORKS=value)
    assert names_in(message_of(CallbackSettings)) == {"CALLBACK_ALLOWED_NETWORKS"}


def test_the_default_sources_are_the_fourteen_published_addresses(
    set_environment: SetEnvironment,
) -> None:
    set_environment(CALLBACKS)
    found = {str(network) for network in read_settings(CallbackSettings).callback_allowed_networks}
    published = {
        "214": (200, 206, 207, 208),
        "213": (114, 44),
        "212": (127, 138, 129, 136, 74, 69, 128, 132),
    }
    assert found == {
        f"196.201.{third}.{last}/32" for third, lasts in published.items() for last in lasts
    }


def test_a_log_level_may_be_written_in_lower_case(set_environment: SetEnvironment) -> None:
    set_environment(CALLBACKS, LOG_LEVEL="debug")
    assert read_settings(CallbackSettings).log_level == "DEBUG"


def test_settings_cannot_be_changed_after_the_start(set_environment: SetEnvironment) -> None:
    set_environment(CALLBACKS)
    settings = read_settings(CallbackSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_a_fault_found_later_names_its_setting_in_the_same_form() -> None:
    message = r"^cannot start; settings invalid: DATABASE_URL \(has no host\)$"
    with pytest.raises(SettingsError, match=message), raise_as_settings_error("DATABASE_URL"):
        raise ValueError("has no host")


@pytest.mark.parametrize("settings_type", PROCESSES)
def test_every_setting_with_a_pattern_describes_the_pattern(
    settings_type: type[ProcessSettings],
) -> None:
    """The message about a wrong value says "must be", and then this description."""
    fields = settings_type.model_fields.values()
    with_pattern = [
        field for field in fields if any(getattr(part, "pattern", None) for part in field.metadata)
    ]
    assert [field for field in with_pattern if not field.description] == []
    assert bool(with_pattern) is (settings_type is WorkerSettings)
