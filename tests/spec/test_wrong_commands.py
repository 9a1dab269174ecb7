"""What an operator reads after a mistake: wrong arguments, lost output, Ctrl-C, no PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from tests.spec.operating import (
    a_running_command,
    operate,
    operate_all,
    operate_each,
    operate_with_output,
)
from tests.spec.system import System
from tests.stack.servers import PostgresServer

_ID = "01a229b2-5bfc-740c-85fb-0c45ba617188"
# Wrong command lines, and a part of what each of them is answered.
_WRONG: list[tuple[tuple[str, ...], str]] = [
    (("show",), "PAYMENT"),
    (("show", "a\x1bb"), "printable"),
    (("explain", "x" * 256), "255"),
    (("list", "INV0042"), "takes no payment. A payment's id looks like"),
    (("requeue", "INV0042", "--reason", "ticket 9"), "not a payment's id. A payment's id looks"),
    (("resolve", "INV0042", "unpaid", "--reason", "ticket 9"), "`list` prints the newest payments"),
    (("ask", "INV0042", "--reason", "ticket 9"), "checkout_request_id"),
    (("webhooks", "enable", "shop"), "`webhooks list` prints all"),
    (("events", "--after", "first"), "position"),
    (("events", "--after", "events-1204-5f0c8d1e9a3b"), "--after 1204"),
    (("events", "--after", "-5"), "position"),
    (("events", "--limit", "0"), "from 1 to 1000"),
    (("list", "--limit", "-1"), "from 1 to 1000"),
    (("list", "--limit", "9" * 30), "from 1 to 1000"),
    (("list", "--phone-number", "12"), "Kenyan mobile number"),
    (("list", "--kind", "loan"), "loan"),
    (("list", "--status", "done"), "'pending', 'success', 'failed'"),
    (("list", "--account-reference", "\udcff"), "surrogate"),
    (("list", "--account-reference", ""), "must not be blank"),
    (("list", "--account-reference", " "), "must not be blank"),
    (("list", "--phone-number", ""), "Kenyan mobile number"),
    (("list", "--created-after", "yesterday"), "2026-03-01T07:15:00Z"),
    (("list", "--created-after", "2026-03-01T07:15:00"), "with its zone"),
    (("list", "--created-after", "2026-03-02", "--created-before", "2026-03-01"), "Swap them"),
    (("list", "--colour", "red"), "python -m workers list: unrecognized arguments: --colour"),
    (("ask", _ID), "--reason"),
    (("ask", _ID, "--reason", ""), "3 to 500 characters; this one has 0"),
    (("ask", _ID, "--reason", "x" * 501), "3 to 500 characters; this one has 501"),
    (
        ("ask", _ID, "--reason", "a\nb\nc"),
        "must be one line of printable characters, and not blank. Say",
    ),
    (("payouts", "stop", "--reason", "ticket 9", "--operator", ""), "your login name is recorded"),
    (("payouts", "stop", "--reason", "ticket 9", "--operator", "  "), "1 to 100 characters"),
    (("payouts", "stop", "--reason", "ticket 9", "--operator", "a\x1b[m"), "printable"),
    (("events", "--after", "9" * 18), "no event has the position 999999999999999999; the newest"),
    (
        ("resolve", _ID, "unpaid", "--reason", "ticket 9", "--receipt", "UC14KD82QZ"),
        "only with the decision 'paid'",
    ),
    (("payouts",), "action"),
    (("dance",), "dance"),
]


async def test_wrong_input_is_one_clear_line(system: System) -> None:
    """The exit code is 2. With --json, the line is the member `error` of a document on stdout."""
    commands = [command for command, _ in _WRONG]
    results = await operate_all(system, commands)
    documents = await operate_all(system, [(*command, "--json") for command in commands])
    for (command, text), result, document in zip(_WRONG, results, documents, strict=True):
        assert result.expect(2).out == "", command
        [line] = result.lines
        assert text in line, (command, line)
        assert line.isprintable(), command
        assert document.expect(2).err == "", command
        assert text in json.loads(document.out)["error"], command


async def test_a_payment_that_does_not_exist_is_exit_code_1_and_says_how_to_find_one(
    system: System,
) -> None:
    commands = [("show", "NOSUCHTHING"), ("explain", "NOSUCHTHING")]
    for result in await operate_all(system, commands):
        assert result.expect(1).out == ""
        [line] = result.lines
        assert line.startswith("there is no such payment. A payment's id looks like ")
        assert "conversation_id" in line
    result = await operate(system, "show", "NOSUCH", "--json")
    assert json.loads(result.expect(1).out)["error"].startswith("there is no such payment")


async def test_output_that_cannot_be_written_is_one_line_and_exit_code_3(system: System) -> None:
    """A reader that closes its pipe early, such as `head`, has what it wants: exit code 0."""
    full = "cannot write the output: No space left on device. What the command changed stays"
    expected = {
        ("/dev/full", "list"): (3, full),
        ("/dev/full", "list", "--json"): (3, full),
        ("/dev/full", "events", "--follow"): (3, full),
        ("/dev/full", "show", "NOSUCH", "--json"): (3, full),
        ("/dev/full", "list", "--kind", "loan", "--json"): (3, full),
        ("/dev/full", "--help"): (3, full),
        ("closed", "list"): (3, "standard output is closed. Nothing was done"),
        ("broken", "list"): (0, ""),
        ("broken", "list", "--json"): (0, ""),
        ("broken", "events", "--follow"): (0, ""),
        ("broken", "show", "NOSUCH", "--json"): (1, ""),
    }
    await system.settled(await system.deposit())  # `list` and `events` print it
    results = await operate_with_output(system, list(expected))
    for (command, (code, text)), result in zip(expected.items(), results, strict=True):
        assert (result.code, len(result.lines)) == (code, bool(text)), (command, result)
        assert result.err.startswith(text), (command, result)


async def test_an_interrupted_command_says_what_is_not_known(system: System) -> None:
    """The server answers nothing, so the command still waits when it is interrupted."""
    connected, ended = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        while await reader.read(4096):
            pass
        writer.close()
        ended.set()

    reason = ("--reason", "ticket 9")
    expected = {
        ("show", "INV0042"): "interrupted.",
        ("requeue", _ID, *reason): (
            "interrupted. The change may or may not be stored. Run it again."
        ),
    }
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"postgresql://user@127.0.0.1:{server.sockets[0].getsockname()[1]}/nothing"
        for command, text in expected.items():
            connected.clear()
            ended.clear()
            env = {"DATABASE_URL": url}
            async with a_running_command(system, *command, env=env) as process:
                await connected.wait()
                process.send_signal(signal.SIGINT)
                out, err = await process.communicate()
            await ended.wait()
            assert (process.returncode, out.decode(), err.decode()) == (130, "", text + "\n")


def _fatal(sqlstate: str, text: str) -> bytes:
    """PostgreSQL's message that refuses a connection."""
    fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


@asynccontextmanager
async def refusing(answer: bytes) -> AsyncIterator[int]:
    """A server that gives each connection the same answer, and its port."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(answer)
        await writer.drain()
        await reader.read(4096)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_each_reason_why_postgres_cannot_be_used_has_its_own_message(system: System) -> None:
    """With --json, the reason and the remedy are members. No message shows the password."""
    if not isinstance(system.stack.postgres, PostgresServer):
        pytest.skip("DATABASE_URL names a server that is not ours")
    right = urlsplit(system.stack.postgres.admin_url)
    host = f"127.0.0.1:{right.port}"
    starting = _fatal("57P03", "the database system is starting up")
    async with refusing(starting) as starts, refusing(b"HTTP/1.1 400 Bad Request\r\n") as http:
        urls = {
            f"postgresql://postgres:s3cr3t@{host}/postgres": "refuses the user or the password",
            f"postgresql://stranger:s3cr3t@{host}/postgres": "refuses the user or the password",
            right._replace(path="/nothing").geturl(): "no database of the name",
            right._replace(path="/postgres").geturl(): "alembic upgrade head",
            right._replace(query="sslmode=require").geturl(): "has no TLS, which sslmode",
            f"postgresql://u:s3cr3t@127.0.0.1:{starts}/db?sslmode=disable": "it starts, stops or",
            f"postgresql://u:s3cr3t@127.0.0.1:{http}/db": "is not PostgreSQL",
            "postgresql://u:s3cr3t@no-such-host.invalid/db": "does not resolve",
            "postgresql://u:s3cr3t@127.0.0.1:1/db": "no server listens",
        }
        commands = (("list",), ("list", "--json"), ("requeue", _ID, "--reason", "ticket 9"))
        runs = [({"DATABASE_URL": url}, command) for url in urls for command in commands]
        results = await operate_each(system, runs)
    for number, (url, text) in enumerate(urls.items()):
        person, program, changing = results[3 * number : 3 * number + 3]
        [line] = person.expect(2).err.splitlines()
        assert text.lower() in line.lower(), (url, line)
        document = json.loads(program.expect(2).out)
        assert line.lower() == f"list: {document['error']} {document['remedy']}".lower(), url
        assert changing.expect(2).err.endswith(
            "The change may or may not be stored. Run it again.\n"
        )
        for result in (person, program, changing):
            assert "s3cr3t" not in result.out + result.err
            assert (right.password or "-") not in result.out + result.err


async def test_a_setting_that_cannot_be_right_is_named_before_anything_is_done(
    system: System,
) -> None:
    wrong = {
        "": "missing: DATABASE_URL",
        "postgresql://u:s3cr3t@h/db?sslmode=on": "DATABASE_URL (has an unknown sslmode; libpq has",
        "mysql://u:s3cr3t@h/db": "must be a URL that starts with postgresql://",
    }
    runs = [({"DATABASE_URL": url}, ("list", *more)) for url in wrong for more in ((), ("--json",))]
    results = await operate_each(system, runs)
    for number, text in enumerate(wrong.values()):
        person, program = results[2 * number : 2 * number + 2]
        assert text in person.expect(1).err
        assert text in json.loads(program.expect(1).out)["error"]
        assert "s3cr3t" not in person.err + program.out
