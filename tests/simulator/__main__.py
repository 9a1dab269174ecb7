"""`python -m tests.simulator --port N`: the simulator as a process, until SIGTERM or SIGINT.

Prints one line when it listens. The names DARAJA_* in its own environment, if set, are the accepted
values.
"""

import argparse
import asyncio
import errno
import os
import signal
import sys
from collections.abc import Callable

from tests.simulator.app import RECORDS_MAX, Simulator


def main() -> None:
    """Run until told to stop."""
    arguments = _arguments()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(_run(arguments))
        except OSError as error:
            sys.exit(f"The simulator cannot start: {error}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulator", description="A simulator of Daraja."
    )
    parser.add_argument(
        "--port", type=int, required=True, help="where Daraja's paths are served; 0: any"
    )
    parser.add_argument(
        "--control-port", type=int, help="the control API's own port (default: the next one)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument(
        "--time-scale", type=float, default=1.0, help="factor for Daraja's own delays"
    )
    parser.add_argument(
        "--certificate-file",
        default=os.environ.get("DARAJA_CERTIFICATE_FILE") or None,
        help="where the certificate for SecurityCredential is written (default: $DARAJA_CERTIFICATE_FILE)",
    )
    parser.add_argument(
        "--records-max",
        type=int,
        default=RECORDS_MAX,
        help=f"how many requests, and how many callbacks, are kept to be looked at (default: {RECORDS_MAX})",
    )
    return parser.parse_args()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where it is installed; the simulator works on either."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.new_event_loop


def _simulator(arguments: argparse.Namespace, *, control_port: int) -> Simulator:
    return Simulator(
        port=arguments.port,
        control_port=control_port,
        host=arguments.host,
        time_scale=arguments.time_scale,
        environment=os.environ,
        certificate_file=arguments.certificate_file,
        records_max=arguments.records_max,
    )


async def _run(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    simulator = await _started(arguments)
    sys.stdout.write(
        f"Daraja simulator on {simulator.base_url}, control on {simulator.control_url}/_control/ "
        "(scenarios: GET /_control/scenarios)\n"
    )
    sys.stdout.flush()
    await stopped.wait()
    await simulator.stop()


async def _started(arguments: argparse.Namespace) -> Simulator:
    if arguments.control_port is not None:
        simulator = _simulator(arguments, control_port=arguments.control_port)
        await simulator.start()
        return simulator
    simulator = _simulator(arguments, control_port=arguments.port + 1 if arguments.port else 0)
    try:
        await simulator.start()
    except OSError as error:
        await simulator.stop()
        if error.errno != errno.EADDRINUSE or not arguments.port:
            raise
        # Nobody asked for that very control port: any will do, and the printed line tells it. If
        # Daraja's own port was the taken one, the second try says so.
        simulator = _simulator(arguments, control_port=0)
        await simulator.start()
    return simulator


if __name__ == "__main__":
    main()
