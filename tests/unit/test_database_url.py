"""URLs that providers print: which parts we apply or ignore, and which parts stop a process."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from domain.adapters.postgres.urls import read_database_url
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from tests.case_tables import for_each
from tests.certificates import certificate_pem, key_pem

URL = "postgresql://user:p%40ss@db.example:6543/mkwanja"
MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# --- URLs that providers print --------------------------------------------------------------------

PRINTED = {
    "Supabase, transaction pooler": "postgresql://postgres.abcdefgh:pw@"
    "aws-0-eu-central-1.pooler.supabase.com:6543/postgres",
    "Supabase, with its reference": "postgres://postgres:pw@db.a.supabase.co:6543/postgres"
    "?options=reference%3Da",
    "Vercel": "postgres://postgres.a:pw@aws-0-us-east-1.pooler.supabase.com:6543/postgres"
    "?sslmode=require&supa=base-pooler.x",
    "Vercel, an old pooler": "postgres://u:pw@h:6543/postgres?workaround=supabase-pooler.vercel",
    "Neon": "postgresql://alex:pw@ep-cool-dark-1.us-east-2.aws.neon.tech/dbname"
    "?sslmode=require&channel_binding=require",
    "Neon, old clients": "postgresql://alex:pw@ep-1.neon.tech/dbname"
    "?sslmode=require&options=endpoint%3Dep-1",
    "Neon, verified": "postgresql://a:pw@ep-1.neon.tech/db?sslmode=verify-full&sslrootcert=system",
    "Heroku, for Node": "postgres://u1:p2@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d3"
    "?sslmode=no-verify",
    "Render": "postgresql://u:pw@dpg-abc-a.frankfurt-postgres.render.com/db?ssl=true",
    "Railway, for SQLAlchemy": "postgresql+asyncpg://postgres:pw@"
    "postgres.railway.internal:5432/railway",
    "RDS": "postgresql://u:pw@mydb.abc.eu-west-1.rds.amazonaws.com:5432/postgres"
    "?sslmode=require&connect_timeout=10",
    "Azure": "postgresql://u%40server:pw@server.postgres.database.azure.com:5432/postgres"
    "?sslmode=require",
    "CockroachDB": "postgresql://u:pw@x-1.cockroachlabs.cloud:26257/defaultdb"
    "?sslmode=verify-full&options=--cluster%3Dx-1",
    "Cloud SQL": "postgresql://u:pw@localhost/db?host=/cloudsql/project:region:instance",
    "Fly": "postgres://u:pw@top2.nearest.of.db.internal:5432/db?sslmode=disable",
    "Prisma": "postgresql://u:pw@h:5432/db"
    "?schema=public&connection_limit=1&pool_timeout=20&sslaccept=accept_invalid_certs",
    "node-postgres": "postgres://u:pw@h/db?sslmode=require&uselibpqcompat=true&application_name=x",
    "pgx": "postgres://u:pw@h/db"
    "?pool_max_conns=10&default_query_exec_mode=simple_protocol&search_path=public",
    "JDBC": "postgresql://h:5432/db?user=u&password=pw&prepareThreshold=0&ApplicationName=x",
    "SQLAlchemy": "postgresql+psycopg2://u:pw@h/db"
    "?prepared_statement_cache_size=0&statement_cache_size=0",
    "libpq": "postgresql://u:pw@h/db"
    "?keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=3"
    "&tcp_user_timeout=9",
    "libpq, settings": "postgresql://u:pw@h/db"
    "?options=-c%20statement_timeout%3D5min%20-csearch_path%3Dx&gssencmode=disable",
    "Patroni": "postgresql://u:pw@pg1:5432,pg2:5432,pg3:5432/db"
    "?target_session_attrs=read-write&load_balance_hosts=disable",
}


@pytest.mark.parametrize("provider", PRINTED)
def test_a_url_that_a_provider_prints_is_accepted(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", PRINTED[provider])
    address = read_database_url(read_settings(MigrationSettings).database_url)
    assert address.hosts
    assert address.user


def test_a_parameter_of_another_driver_is_named_and_left_out() -> None:
    query = (
        "supa=base-pooler.x&pgbouncer=true&connection_limit=1&pool_timeout=0&workaround=y"
        "&options=-c%20x&keepalives=1&sslmode=require&schema=public&schema=other"
    )
    address = read_database_url(f"{URL}?{query}")
    assert address.left_out == (
        "supa", "pgbouncer", "connection_limit", "pool_timeout", "workaround", "options",
        "keepalives", "schema",
    )  # fmt: skip
    assert address.arguments() == {**read_database_url(URL).arguments(), "ssl": "require"}


def test_another_driver_in_the_scheme_is_left_out_too() -> None:
    assert read_database_url("postgresql+psycopg2://u@h/d").left_out == ("+psycopg2",)
    assert read_database_url("postgresql+asyncpg://u@h/d").left_out == ()


# --- hosts ----------------------------------------------------------------------------------------


@for_each(
    ("url", "hosts"),
    [
        ("postgres://u@h/d", [("h", 5432)]),
        ("POSTGRES://u@h:1/d", [("h", 1)]),
        ("postgresql://u@h1:5432,h2:5433/d", [("h1", 5432), ("h2", 5433)]),
        ("postgresql://u@h1,h2:5433/d", [("h1", 5432), ("h2", 5433)]),
        (
            "postgresql://u@[::1]:6000,[fe80::2],10.0.0.1/d",
            [("::1", 6000), ("fe80::2", 5432), ("10.0.0.1", 5432)],
        ),
        ("postgresql://u@/d?host=h1,h2&port=5433", [("h1", 5433), ("h2", 5433)]),
        ("postgresql://u@/d?host=h1,h2&port=5433,5434", [("h1", 5433), ("h2", 5434)]),
        ("postgresql://u@/d?host=h1,h2&port=,5434", [("h1", 5432), ("h2", 5434)]),
        ("postgresql://u@/d?host=h1:5433&host=h2:5434", [("h1", 5433), ("h2", 5434)]),
        ("postgresql://u@/d?host=::1,[::2]:7", [("::1", 5432), ("::2", 7)]),
        ("postgresql:///d?host=/run/postgresql&port=5433", [("/run/postgresql", 5433)]),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/d", [("/var/run/postgresql", 5432)]),
        ("postgresql://u@other:5433/d?host=h", [("h", 5433)]),
        ("postgresql://u@h1,h2/d?port=6432", [("h1", 6432), ("h2", 6432)]),
    ],
)
def test_hosts_and_ports_are_read_as_libpq_reads_them(
    url: str, hosts: list[tuple[str, int]]
) -> None:
    assert list(read_database_url(url).hosts) == hosts


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://us%65r:p%40%2F%3A%23%25@h/d%20b", ("user", "p@/:#%", "d b")),
        ("postgresql://user:p@ss@h/d", ("user", "p@ss", "d")),
        ("postgresql://user:p#s:s@h", ("user", "p#s:s", None)),
        ("postgresql://h/d?user=u+x&password=p%26w+d", ("u+x", "p&w+d", "d")),
        ("postgresql://user@h/d?dbname=other", ("user", None, "other")),
    ],
)
def test_user_password_and_database_are_read(
    url: str, expected: tuple[str, str | None, str | None]
) -> None:
    address = read_database_url(url)
    assert (address.user, address.password, address.database) == expected


@pytest.mark.parametrize(
    ("hosts", "wanted", "applied"),
    [
        ("h", None, None), ("h", "any", None),
        ("h", "read-write", "read-write"), ("h", "primary", "primary"),
        ("h,g", None, "read-write"), ("h,g", "any", "read-write"),
        ("h,g", "read-write", "read-write"), ("h,g", "primary", "primary"),
    ],
)  # fmt: skip
def test_of_several_hosts_only_a_host_that_accepts_writes_is_used(
    hosts: str, wanted: str | None, applied: str | None
) -> None:
    query = f"?target_session_attrs={wanted}" if wanted else ""
    assert read_database_url(f"postgresql://u@{hosts}/d{query}").target_session_attrs == applied


# --- TLS ------------------------------------------------------------------------------------------


def tls_of(query: str) -> object:
    return read_database_url(f"{URL}?{query}").tls.get("ssl")


@pytest.mark.parametrize("mode", MODES[:4])
def test_an_sslmode_that_the_driver_knows_is_passed_on(mode: str) -> None:
    assert tls_of(f"sslmode={mode}") == tls_of(f"ssl={mode}") == mode


@pytest.mark.parametrize(
    ("query", "mode"),
    [("ssl=true", "require"), ("ssl=false", "disable"), ("ssl=no-verify", "require"),
     ("sslmode=no-verify", "require"), ("ssl=true&sslmode=require", "require"), ("", None)],
)  # fmt: skip
def test_a_mode_in_another_driver_s_spelling_is_read(query: str, mode: str | None) -> None:
    assert tls_of(query) == mode


@pytest.mark.parametrize(
    ("query", "checks_name"),
    [("sslmode=verify-ca", False), ("sslmode=verify-full", True),
     ("sslmode=verify-full&sslrootcert=system", True), ("sslrootcert=system", True),
     ("sslmode=require&sslaccept=strict", True), ("sslaccept=strict", True),
     ("sslmode=verify-ca&sslaccept=strict", False)],
)  # fmt: skip
def test_a_mode_that_verifies_becomes_a_context_that_verifies(
    query: str, checks_name: bool
) -> None:
    tls = tls_of(query)
    assert isinstance(tls, ssl.SSLContext)
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_REQUIRED, checks_name)


def test_a_root_certificate_is_enforced_in_every_mode(certificate: Path) -> None:
    for query in ("sslmode=require&", "sslmode=verify-ca&", ""):
        tls = tls_of(f"{query}sslrootcert={certificate}")
        assert isinstance(tls, ssl.SSLContext)
        assert (tls.verify_mode, len(tls.get_ca_certs())) == (ssl.CERT_REQUIRED, 1)


def test_direct_negotiation_starts_tls_with_the_first_byte() -> None:
    assert read_database_url(f"{URL}?sslnegotiation=direct").tls == {
        "direct_tls": True,
        "ssl": "require",
    }
    assert read_database_url(f"{URL}?sslnegotiation=postgres&sslmode=prefer").tls == {
        "ssl": "prefer"
    }


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate and its key, in one file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = tmp_path / "root.pem"
    path.write_bytes(key_pem(key) + certificate_pem(key, is_ca=True))
    return path


def test_a_client_certificate_does_not_depend_on_verification_of_the_server(
    certificate: Path,
) -> None:
    tls = tls_of(f"sslmode=require&sslcert={certificate}")
    assert isinstance(tls, ssl.SSLContext)
    assert tls.verify_mode == ssl.CERT_NONE


# --- errors that stop the process -----------------------------------------------------------------

# These parameters choose the server, or ask for a protection that we do not offer.
REFUSED_PARAMETERS = [
    "hostaddr=10.0.0.1", "service=other", "servicefile=x", "replication=database",
    "targetServerType=secondary", "something_new=1", "sslcrl=x", "sslidentity=x",
    "ssl_min_protocol_version=TLSv1.3", "sslcertmode=require", "require_auth=scram-sha-256",
    "requirepeer=postgres", "gssencmode=require", "channel_binding=maybe", "passfile=x",
]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "explanation"),
    [
        # Hosts.
        (f"{URL}?target_session_attrs=read-only", "standby"),
        (f"{URL}?target_session_attrs=standby", "standby"),
        (f"{URL}?target_session_attrs=prefer-standby", "standby"),
        (f"{URL}?target_session_attrs=master", "target_session_attrs"),
        (f"{URL}?target_session_attrs=", "target_session_attrs"),
        (f"{URL}?user=a&user=b", "two values: user"),
        ("postgresql://u@h1,h2/d?port=1,2,3", "number of ports"),
        ("postgresql://u@h1,,h2/d", "empty"),
        ("postgresql://u@" + ",".join("abcdefghijk") + "/d", "more than 10"),
        ("postgresql:///d", "names no host"),
        ("postgresql://u@/d?host=", "names no host"),
        ("postgresql://u@h:0/d", "port"),
        ("postgresql://u@h:99999/d", "port"),
        ("postgresql://u@::1/d", "brackets"),
        ("postgresql://u:p/ss@h/d", "percent-encoded"),
        ("postgresql://u:p?ss@h/d", "percent-encoded"),
        ("postgresql://u:12/ss@h/d", "percent-encoded"),
        ("mysql://u@h/d", "postgresql://"),
        ("jdbc:postgresql://h/d", "postgresql://"),
        ("'postgresql://u@h/d'", "postgresql://"),
        ("postgresql:/u@h/d", "postgresql://"),
        ("postgresql://u@h/d ", "white space"),
        ("postgresql://u@h/d\n", "white space"),
        # TLS.
        (f"{URL}?sslmode=on", "sslmode"),
        (f"{URL}?sslmode=REQUIRE", "sslmode"),
        (f"{URL}?sslmode=", "sslmode"),
        (f"{URL}?SSLMODE=require", "SSLMODE"),
        (f"{URL}?sslmode=require&sslmode=disable", "two values: sslmode"),
        (f"{URL}?sslmode=require&ssl=false", "differ"),
        (f"{URL}?ssl=1", "sslmode"),
        (f"{URL}?sslmode=disable&sslrootcert=x.pem", "weaker than require"),
        (f"{URL}?sslmode=prefer&sslcert=x.pem", "weaker than require"),
        (f"{URL}?sslmode=allow&sslnegotiation=direct", "weaker than require"),
        (f"{URL}?sslmode=prefer&sslaccept=strict", "weaker than require"),
        (f"{URL}?sslmode=require&sslrootcert=system", "verify-full"),
        (f"{URL}?sslmode=verify-full&sslrootcert=no-such-file.pem", "sslrootcert"),
        (f"{URL}?sslmode=require&sslcert=no-such-file.pem", "sslcert"),
        (f"{URL}?sslmode=require&sslkey=no-such-file.pem", "sslkey without"),
        (f"{URL}?sslaccept=maybe", "sslaccept"),
        (f"{URL}?sslnegotiation=maybe", "sslnegotiation"),
        *((f"{URL}?{parameter}", parameter.partition("=")[0]) for parameter in REFUSED_PARAMETERS),
    ],
)  # fmt: skip
def test_a_wrong_url_stops_the_process_and_the_error_names_the_setting(
    url: str, explanation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(SettingsError) as caught:
        read_settings(MigrationSettings)
    assert "DATABASE_URL (" in str(caught.value)
    assert explanation in str(caught.value)
    assert "p@ss" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)


def test_an_error_quotes_no_value_and_no_invalid_name() -> None:
    for url in (
        f"{URL}?passfile=S3cret",
        f"{URL}?S3cret!=1",
        "postgresql://u:x?S3cret@h/d",
        "postgresql://u:S3cret/d",
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            read_database_url(url)
        assert "S3cret" not in str(caught.value)


def test_every_secret_of_a_url_is_listed() -> None:
    assert set(read_database_url(URL).secrets) == {"p@ss", "p%40ss"}
    assert set(
        read_database_url("postgresql://h/d?user=u&password=p%40s&sslpassword=q").secrets
    ) == {"p@s", "q"}
    assert "p@ss" not in repr(read_database_url(URL))
