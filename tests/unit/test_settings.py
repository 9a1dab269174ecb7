"""The settings of each process, and the messages about missing and invalid settings."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import (
    MigrationSettings,
    ProcessSettings,
    ReleaseSettings,
    read_settings,
)
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.web import IngressSettings
from domain.adapters.settings.worker import WorkerSettings
from tests.certificates import LONG_AGO, certificate_pem, key_pem

PROCESSES = (MigrationSettings, ReleaseSettings, IngressSettings, CallbackSettings, WorkerSettings)
SHARED = {
    "DATABASE_URL": "postgresql://mkwanja:Db-Passw0rd@db.example/mkwanja",
    "REDIS_URL": "rediss://:Redis-Passw0rd@r.example",
}
INGRESS = {**SHARED, "SUPABASE_URL": "https://abc.supabase.example"}
CALLBACKS = {**SHARED, "CALLBACK_SECRETS": "Callback-S3cret-1,Callback-S3cret-2"}
WORKER = {
    **CALLBACKS,
    "DARAJA_BASE_URL": "https://sandbox.daraja.example/",
    "DARAJA_CONSUMER_KEY": "Consumer-K3y",
    "DARAJA_CONSUMER_SECRET": "Consumer-S3cret",
    "DARAJA_SHORTCODE": "174379",
    "DARAJA_PASSKEY": "Pass-K3y",
    "DARAJA_INITIATOR_NAME": "testapi",
    "DARAJA_INITIATOR_PASSWORD": "Initiator-Passw0rd",
    "DARAJA_CERTIFICATE_FILE": "rsa.pem",
    "CALLBACK_BASE_URL": "https://pay.example.co.ke/in/",
}
NEEDED: dict[type[ProcessSettings], dict[str, str]] = {
    MigrationSettings: {"DATABASE_URL": SHARED["DATABASE_URL"]},
    ReleaseSettings: {"DATABASE_URL": SHARED["DATABASE_URL"]},
    IngressSettings: INGRESS,
    CallbackSettings: CALLBACKS,
    WorkerSettings: WORKER,
}
FIRST, SECOND = "https://first.example/auth/v1", "https://second.example"
SetEnvironment = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with valid certificates, and with files that are no valid certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ec.generate_private_key(ec.SECP256R1())
    of_daraja = rsa.generate_private_key(65537, 2048)
    (folder / "rsa.pem").write_bytes(certificate_pem(of_daraja, not_before=LONG_AGO))
    (folder / "ec.pem").write_bytes(certificate_pem(key, not_before=LONG_AGO))
    (folder / "key.pem").write_bytes(key_pem(key))
    (folder / "empty.pem").touch()
    (folder / "text.pem").write_text("not a certificate")
    return folder


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> SetEnvironment:
    """Sets the given variables, and unsets all others that a process reads."""
    monkeypatch.chdir(folder)

    def set_variables(values: dict[str, str], **more: str) -> None:
        for process in PROCESSES:
            for name in process.model_fields:
                monkeypatch.delenv(name.upper(), raising=False)
        for name, value in {**values, **more}.items():
            monkeypatch.setenv(name, value)

    return set_variables


def message_of(process: type[ProcessSettings]) -> str:
    """The message about the faults of the environment: one line without any value."""
    with pytest.raises(SettingsError) as caught:
        read_settings(process)
    text = str(caught.value)
    assert "\n" not in text
    assert "S3cret" not in text
    return text


def names_in(text: str) -> set[str]:
    names = {name.upper() for process in PROCESSES for name in process.model_fields}
    return names & {word.strip("(),;:") for word in text.split()}


def test_the_settings_have_these_defaults(set_environment: SetEnvironment) -> None:
    set_environment(INGRESS)
    web = read_settings(IngressSettings)
    assert (web.port, web.database_pool_size) == (8080, 10)
    assert (web.jwt_audience, web.log_level) == ("authenticated", "INFO")
    set_environment(CALLBACKS)
    receiver = read_settings(CallbackSettings)
    assert (receiver.port, receiver.trusted_proxies) == (8081, [])
    set_environment(WORKER)
    settings = read_settings(WorkerSettings)
    defaults = {
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
        # The slash at the end of the setting is removed.
        "daraja_base_url": "https://sandbox.daraja.example",
        "callback_base_url": "https://pay.example.co.ke/in",
    }
    assert {name: getattr(settings, name) for name in defaults} == defaults


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("written", ["absent", "empty"])
def test_a_process_names_every_missing_setting_in_one_line(
    set_environment: SetEnvironment, process: type[ProcessSettings], written: str
) -> None:
    needed = set(NEEDED[process])
    set_environment(dict.fromkeys(needed, "") if written == "empty" else {})
    if process is IngressSettings:
        needed |= {"JWT_ISSUER", "JWT_JWKS_URL", "JWT_SECRET"}
    text = message_of(process)
    assert text.startswith("cannot start; settings missing: ")
    assert names_in(text) == needed


INVALID: dict[type[ProcessSettings], dict[str, list[str]]] = {
    WorkerSettings: {
        "DATABASE_URL": [
            *("mysql://db", "postgresql://", "db.example"),
            *("postgresql://db:port/x", "postgresql://[::1"),
        ],
        "DATABASE_POOL_SIZE": ["0", "many", "1.5", "9999"],
        "REDIS_URL": [
            *("http://r.example", "redis://", "r.example:6379"),
            *("redis+sentinel://r.example", "redis://r.example/zero", "redis://a:1,b:2/0"),
            *("redis://r.example?family=0", "rediss://r.example?ssl_cert_reqs=perhaps"),
            *("redis://r.example?db=x", "redis://r.example?retry=3"),
        ],
        "REDIS_CA_FILE": [".", "absent.pem", "empty.pem", "text.pem", "key.pem"],
        "REDIS_TLS_VERIFY": ["NONE", "off", "optional"],
        "DARAJA_BASE_URL": [
            *("sandbox.daraja.example", "ftp://x.example", "https://", "https://x.example\n"),
        ],
        "DARAJA_CONSUMER_KEY": [" "],
        "DARAJA_CONSUMER_SECRET": [" \t"],
        "DARAJA_PASSKEY": [" ", "\n", "\u00a0"],
        "DARAJA_INITIATOR_NAME": [" "],
        "DARAJA_INITIATOR_PASSWORD": [" "],
        "DARAJA_SHORTCODE": ["1234", "12345678", "17437a"],
        "DARAJA_TILL": ["1234", "12345678"],
        "DARAJA_PAYOUT_SHORTCODE": ["1234", "12345678"],
        "DARAJA_REQUESTS_PER_SECOND": ["0", "fast", "nan"],
        "DARAJA_STK_QUERIES_PER_MINUTE": ["0", "1000001"],
        "DARAJA_STATUS_QUERIES_PER_MINUTE": ["0", "1000001"],
        "DARAJA_INQUIRIES_PER_MINUTE": ["0", "1000001"],
        "DEPOSIT_RESULT_WINDOW_SECONDS": ["0", "x", "86401"],
        "NOT_FOUND_TRUSTED_AFTER_SECONDS": ["0", "86401"],
        "BREAKER_COOL_DOWN_SECONDS": ["0", "3601"],
        "WORKER_METRICS_PORT": ["0", "65536"],
        "DARAJA_CERTIFICATE_FILE": [".", "absent.pem", "empty.pem", "text.pem", "ec.pem"],
        "CALLBACK_SECRETS": [",", "short", "long-enough-1,short", " , "],
        "SUBMITTING_LEASE_SECONDS": ["2.9", "601", "x"],
        "SWEEP_INTERVAL_SECONDS": ["0", "-1"],
        "DEPOSIT_EXPIRES_AFTER_SECONDS": ["0", "inf"],
        "CALLBACK_BASE_URL": [
            *("http://pay.example.co.ke", "https://Pay.example.co.ke"),
            *("http://localhost.evil.example", "http://127.0.0.1.evil.example", "http://10.0.0.1"),
            *("pay.example.co.ke", "https://mpesa.example.co.ke", "https://pay.example/m-pesa"),
            *("https://safaricom.example", "https://pay.example/exec", "https://pay.example/sql"),
            *("https://query.example", "https://pay.example/cmd", "https://pay.example/in?a=b"),
            *("https://pay.example/in#a", "ftp://localhost/x", "https://pay.example\n"),
            *("https://pay.example/a b", "https://pay.ex ample"),
        ],
    },
    # A message contains no value, even of a misplaced secret.
    CallbackSettings: {
        "DATABASE_URL": ["S3cret"],
        "REDIS_URL": ["S3cret"],
        "CALLBACK_SECRETS": ["S3cret"],
        "CALLBACK_ALLOWED_NETWORKS": ["S3cret", "10.0.0.1/8", "10.0.0.0/33", "*"],
        "TRUSTED_PROXIES": ["S3cret", "10.0.0.0/8,a\nb"],
        "PORT": ["S3cret", "0", "65536"],
        "LOG_LEVEL": ["S3cret", "a\nb"],
    },
    ReleaseSettings: {
        "CALLBACKS_KEPT_MONTHS": ["2", "0", "-1", "3.5", "x", "1201"],
        "EXCHANGES_KEPT_MONTHS": ["2", "0", "-1", "3.5", "x", "1201"],
    },
    IngressSettings: {
        "WEB_CONCURRENCY": ["0", "65", "two"],
        "JWT_SECRET": ["S3cret" * 5],
        "JWT_FORMER_ISSUERS": [
            *(f"{FIRST},{FIRST}", f"{FIRST} {SECOND}", "a\tb", ",", " , "),
            *("[,", f'["{FIRST}"]', f"[{FIRST}]", f'"{FIRST}"', f"'{FIRST}'", f"<{FIRST}>"),
            *(f"{FIRST}]", f"{FIRST},{SECOND}]", f'{FIRST}"', f"-{FIRST}"),
            *("https://", "https:/first.example", "https:first.example", "https://first example"),
        ],
        "JWT_ISSUER": [" ", "\t"],
        "OTEL_EXPORTER_OTLP_ENDPOINT": ["foo", "collector:4318", "grpc://c:4317", "http://", " "],
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ["foo", "/v1/traces"],
        "OTEL_TRACES_SAMPLER": ["some", "0.1"],
        "OTEL_BSP_SCHEDULE_DELAY": ["x", "0", "-1", "1.5", "5.0", "3600001", "9" * 30, "٣"],
    },
}


@pytest.mark.parametrize(
    ("process", "name", "value"),
    [
        pytest.param(process, name, value, id=f"{name} {value!a}")
        for process, table in INVALID.items()
        for name, values in table.items()
        for value in values
    ],
)
def test_an_invalid_setting_is_the_only_one_named(
    set_environment: SetEnvironment, process: type[ProcessSettings], name: str, value: str
) -> None:
    set_environment(NEEDED[process], **{name: value})
    text = message_of(process)
    assert text.startswith(f"cannot start; settings invalid: {name} (")
    assert names_in(text) == {name}


def test_missing_and_invalid_settings_are_named_together(set_environment: SetEnvironment) -> None:
    invalid = {"DARAJA_SHORTCODE": "1", "SUBMITTING_LEASE_SECONDS": "1", "DATABASE_URL": "x"}
    set_environment(WORKER, **invalid, DARAJA_PASSKEY="", REDIS_URL="")
    before, _, after = message_of(WorkerSettings).partition("invalid: ")
    assert names_in(before) == {"DARAJA_PASSKEY", "REDIS_URL"}
    assert names_in(after) == invalid.keys()


def test_a_ca_file_needs_tls(set_environment: SetEnvironment) -> None:
    """Otherwise the operator would believe that the traffic is encrypted."""
    set_environment(CALLBACKS, REDIS_CA_FILE="ec.pem")
    assert read_settings(CallbackSettings).redis_ca_file == Path("ec.pem")
    set_environment(CALLBACKS, REDIS_CA_FILE="ec.pem", REDIS_URL="redis://r.example")
    assert message_of(CallbackSettings).startswith(
        "cannot start; settings invalid: REDIS_CA_FILE ("
    )


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8081", "http://127.0.0.1:8081/in", "http://[::1]:1", "https://pay.example"],
)
def test_the_callback_url_is_https_except_on_localhost(
    set_environment: SetEnvironment, url: str
) -> None:
    set_environment(WORKER, CALLBACK_BASE_URL=url)
    assert read_settings(WorkerSettings).callback_base_url == url


def test_settings_never_print_a_value(set_environment: SetEnvironment) -> None:
    for process, values in NEEDED.items():
        set_environment(values)
        settings = read_settings(process)
        for text in (repr(settings), str(settings), f"{settings}"):
            assert text == process.__name__


def test_settings_know_their_secrets(set_environment: SetEnvironment) -> None:
    """A password in a URL is a secret in two forms: as it is written there, and decoded."""
    url = "redis+sentinel://:S3rver-Passw0rd@a:1,b:2/payments/0?sentinel_password=Sent1nel%2FPass"
    set_environment(WORKER, REDIS_URL=url)
    assert set(read_settings(WorkerSettings).secrets) == {
        *("Db-Passw0rd", "S3rver-Passw0rd", "Sent1nel%2FPass", "Sent1nel/Pass"),
        *("Callback-S3cret-1", "Callback-S3cret-2", "Initiator-Passw0rd"),
        *("Consumer-K3y", "Consumer-S3cret", "Pass-K3y"),
    }


@pytest.mark.parametrize("url", ["https://abc.supabase.example", "https://abc.supabase.example/"])
def test_supabase_url_sets_key_set_and_issuer_by_its_conventions(
    set_environment: SetEnvironment, url: str
) -> None:
    """A project that changes to signing keys may use its legacy secret beside its key set."""
    set_environment(INGRESS, SUPABASE_URL=url, JWT_SECRET="x" * 32)
    settings = read_settings(IngressSettings)
    assert settings.jwt_issuer == "https://abc.supabase.example/auth/v1"
    assert settings.jwt_jwks_url == "https://abc.supabase.example/auth/v1/.well-known/jwks.json"
    assert settings.jwt_secret == "x" * 32


def test_an_explicit_setting_outranks_the_conventions(set_environment: SetEnvironment) -> None:
    issuer, keys = "https://other.example", "https://other.example/keys"
    set_environment(INGRESS, JWT_ISSUER=issuer, JWT_JWKS_URL=keys, JWT_AUDIENCE="shop")
    settings = read_settings(IngressSettings)
    assert (settings.jwt_issuer, settings.jwt_jwks_url, settings.jwt_audience) == (
        *(issuer, keys, "shop"),
    )
    assert settings.jwt_secret is None


def test_a_secret_alone_is_enough_to_verify_tokens(set_environment: SetEnvironment) -> None:
    set_environment(SHARED, JWT_SECRET="x" * 32, JWT_ISSUER="https://other.example")
    assert read_settings(IngressSettings).jwt_jwks_url is None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", []),
        (f"{FIRST} , {SECOND},", [FIRST, SECOND]),
        ("https://abc.supabase.example/auth/v1", ["https://abc.supabase.example/auth/v1"]),
        ("supabase", ["supabase"]),
        ("accounts.example", ["accounts.example"]),
        ("urn:example:shop", ["urn:example:shop"]),
        ("Zürich-Bank", ["Zürich-Bank"]),
        ("http://[::1]:9999/auth/v1", ["http://[::1]:9999/auth/v1"]),
        ("https://id.example/realms/a(b)!/", ["https://id.example/realms/a(b)!/"]),
    ],
)
def test_former_issuers_are_read_in_their_order(
    set_environment: SetEnvironment, written: str, read: list[str]
) -> None:
    """The oldest issuer comes first. The present issuer may be in the list."""
    set_environment(INGRESS, JWT_FORMER_ISSUERS=written)
    assert read_settings(IngressSettings).jwt_former_issuers == read


def test_lists_are_split_at_commas_and_trimmed(set_environment: SetEnvironment) -> None:
    networks = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"]
    set_environment(
        CALLBACKS,
        CALLBACK_SECRETS=" secret-one , secret-two,",
        TRUSTED_PROXIES=" , ".join(networks),
    )
    settings = read_settings(CallbackSettings)
    assert settings.callback_secrets == ["secret-one", "secret-two"]
    assert settings.trusted_proxies == [ipaddress.ip_network(text) for text in networks]


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


@pytest.mark.parametrize("process", PROCESSES)
def test_every_setting_with_a_pattern_describes_the_pattern(
    process: type[ProcessSettings],
) -> None:
    """The message about a wrong value says "must be", and then this description."""
    with_pattern = [
        field
        for field in process.model_fields.values()
        if any(getattr(part, "pattern", None) for part in field.metadata)
    ]
    assert [field for field in with_pattern if not field.description] == []
    assert bool(with_pattern) is (process is WorkerSettings)
