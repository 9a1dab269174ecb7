"""`python -m tests.simulator --port N`: runs the simulator as a process, until SIGTERM or SIGINT.

It prints one line when it listens. It accepts the values of DARAJA_* in its own environment.
"""

import argparse
import asyncio
import errno
import gc
import os
import signal
import sys
from functools import partial

import uvloop

from tests.simulator.app import RECORDS_MAX, Simulator


def main() -> None:
    """Run the simulator until SIGTERM or SIGINT."""
    arguments = _parse_arguments()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(arguments))
        except OSError as error:
            sys.exit(f"The simulator cannot start: {error}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulator", description="A simulator of Daraja."
    )
    parser.add_argument(
        "--port", type=int, required=True, help="the port of Daraja's paths; 0: any free port"
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
        help="file for the certificate of SecurityCredential (default: $DARAJA_CERTIFICATE_FILE)",
    )
    parser.add_argument(
        "--records-max",
        type=int,
        default=RECORDS_MAX,
        help=f"how many requests and how many callbacks are kept (default: {RECORDS_MAX})",
    )
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    simulator = await _start_simulator(arguments)
    # It keeps all its records, and each of Python's usual collections would look at all of them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    sys.stdout.write(
        f"Daraja simulator on {simulator.base_url}, control on {simulator.control_url}/_control/ "
        "(scenarios: GET /_control/scenarios)\n"
    )
    sys.stdout.flush()
    await stopped.wait()
    await simulator.stop()


async def _start_simulator(arguments: argparse.Namespace) -> Simulator:
    create = partial(
        Simulator,
        port=arguments.port,
        host=arguments.host,
        time_scale=arguments.time_scale,
        environment=os.environ,
        certificate_file=arguments.certificate_file,
        records_max=arguments.records_max,
    )
    chosen = arguments.control_port
    next_port = arguments.port + 1 if arguments.port else 0
    simulator = create(control_port=next_port if chosen is None else chosen)
    try:
        await simulator.start()
    except OSError as error:
        await simulator.stop()
        if chosen is not None or error.errno != errno.EADDRINUSE or not arguments.port:
            raise
        # No control port was asked for, so any free port is right. The printed line shows the port.
        # If Daraja's own port is in use, the second start fails with that error.
        simulator = create(control_port=0)
        await simulator.start()
    return simulator


if __name__ == "__main__":
    main()
