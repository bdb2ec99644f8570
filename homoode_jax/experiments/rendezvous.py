"""Where processes meet before JAX joins them.

JAX's own meeting ends a process from C++ where another does not come, and processes that were
started with different settings train garbage or wait for each other. So process 0 first listens
where JAX's coordinator will; every other one says there how it was started, and is answered with
the verdict on all of them: nothing, or what is wrong, which each process then ends with.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from homoode_jax.experiments.errors import UserError

COME_SECONDS = 120  # within which all processes must have come, unless a flag says otherwise
GREETING_SECONDS = 10  # within which a visitor says who it is
RETRY_SECONDS = 0.2
LONGEST_MESSAGE = 2**20  # bytes of a message
SHOWN_DIFFERENCES = 3  # in a message; of another configuration file there are dozens


class MeetingFlags(NamedTuple):
    """Where the processes meet, as the command line gives it; the first three empty: not at all."""

    coordinator: str = ""
    processes: int = 0
    process: int = -1
    seconds: int = COME_SECONDS


class Meeting(NamedTuple):
    """Who meets where; `listen` is the address that process 0 listens on, "" for every one."""

    host: str
    port: int
    listen: str
    processes: int
    process: int
    seconds: int


def split_address(address: str) -> tuple[str, int]:
    """Splits HOST:PORT, where HOST may be an IPv6 address in brackets.

    Raises:
        UserError: if it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator={address!r} must be HOST:PORT, the address of process 0, "
            "with a port from 1 to 65535."
        )
    return host.strip("[]"), int(port)


def own_address(host: str, port: int) -> str:
    """Returns the number of the address that a name or number of this machine stands for."""
    try:
        return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise UserError(f"--coordinator: the host {host!r} is not known here.") from error


def meet(meeting: Meeting, told: dict[str, str]) -> None:
    """Returns once all processes have come and were started alike.

    Args:
        meeting: where, and how many.
        told: how this process was started, by name.

    Raises:
        UserError: if some do not come in time, or were started otherwise than process 0.
    """
    told = {**told, "--processes": str(meeting.processes)}
    verdict = _host(meeting, told) if meeting.process == 0 else _visit(meeting, told)
    if verdict:
        raise UserError(verdict)


def _host(meeting: Meeting, told: dict[str, str]) -> str:
    """Waits for the others, and tells them the verdict."""
    come = {0: told}
    visitors = []
    verdict = ""
    end = time.monotonic() + meeting.seconds
    with _listen(meeting) as listener:
        while not verdict and len(come) < meeting.processes and time.monotonic() < end:
            visitor = _accept_visitor(listener, end)
            if visitor is None:
                continue
            visitors.append(visitor)
            greeting = _receive(visitor, GREETING_SECONDS)
            if not _is_greeting(greeting):
                continue
            verdict = _misplaced(greeting, come, meeting.processes)
            come[greeting["process"]] = greeting["told"]
        verdict = verdict or _missing(meeting, come) or _different(come)
        for visitor in visitors:
            _dismiss(visitor, verdict)
    return verdict


def _listen(meeting: Meeting) -> socket.socket:
    try:
        if meeting.listen:
            family = socket.AF_INET6 if ":" in meeting.listen else socket.AF_INET
            return socket.create_server((meeting.listen, meeting.port), family=family)
        if socket.has_dualstack_ipv6():
            where = ("", meeting.port)
            return socket.create_server(where, family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", meeting.port))
    except OSError as error:
        raise UserError(_cannot_listen(meeting, error)) from error


def _cannot_listen(meeting: Meeting, error: OSError) -> str:
    where = f"{meeting.listen or 'this machine'} at port {meeting.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where}: another program listens there; choose another port for --coordinator."
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{meeting.host} is not an address of this machine, where process 0 runs: give its own "
            "as --coordinator, or where to listen as JAX_COORDINATOR_BIND_ADDRESS=ADDRESS:PORT."
        )
    return f"process 0 cannot listen on {where}: {os.strerror(error.errno or 0)}."


def _accept_visitor(listener: socket.socket, end: float) -> socket.socket | None:
    listener.settimeout(max(end - time.monotonic(), 0.01))
    try:
        return listener.accept()[0]
    except OSError:  # nobody came, or went again
        return None


def _is_greeting(message: Any) -> bool:
    """Returns True for what a process of this program says; anybody may connect."""
    return (
        isinstance(message, dict)
        and type(message.get("process")) is int
        and isinstance(message.get("told"), dict)
    )


def _misplaced(greeting: dict, come: Iterable[int], processes: int) -> str:
    """Says what is wrong with a visitor's number."""
    number = greeting["process"]
    if number in come:
        return f"two processes were started with --process={number}; each needs its own."
    if not 0 <= number < processes:
        return f"a process came with --process={number}, where process 0 has {processes} processes."
    return ""


def _missing(meeting: Meeting, come: Iterable[int]) -> str:
    missing = sorted(set(range(meeting.processes)) - set(come))
    if not missing:
        return ""
    named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    return (
        f"of {meeting.processes} processes, these did not come to {meeting.host}:{meeting.port} "
        f"within {meeting.seconds} s: {named}. Start them too; --join_seconds=N waits longer."
    )


def _different(come: dict[int, dict[str, str]]) -> str:
    told = [_difference(number, theirs, come[0]) for number, theirs in sorted(come.items())]
    found = [text for text in told if text]
    if not found:
        return ""
    more = f" (and {len(found) - 1} more processes)" if len(found) > 1 else ""
    return f"{found[0]}{more}. All of them need the same command, program and libraries."


def _difference(process: int, theirs: dict[str, str], ours: dict[str, str]) -> str:
    """Says what another process was started with, and process 0 otherwise; "" if nothing."""
    names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    if not names:
        return ""
    told = [
        f"{name} is {theirs.get(name)!s}, not {ours.get(name)!s}"
        for name in names[:SHOWN_DIFFERENCES]
    ]
    more = len(names) - SHOWN_DIFFERENCES
    rest = f"; and {more} more" if more > 0 else ""
    return f"process {process} was started otherwise than process 0: {'; '.join(told)}{rest}"


def _dismiss(visitor: socket.socket, verdict: str) -> None:
    """Tells a visitor the verdict, and lets it close first: the port is then free at once."""
    try:
        visitor.sendall(json.dumps({"verdict": verdict}).encode() + b"\n")
        visitor.settimeout(GREETING_SECONDS)
        visitor.recv(1)
    except OSError:  # it has gone already
        pass
    finally:
        visitor.close()


def _visit(meeting: Meeting, told: dict[str, str]) -> str:
    """Says how this process was started; returns the verdict of process 0."""
    connection = _connect(meeting)
    where = f"{meeting.host}:{meeting.port}"
    if connection is None:
        return (
            f"process 0 did not come to {where} within {meeting.seconds} s. Start it too; "
            "--join_seconds=N waits longer."
        )
    with connection:
        greeting = {"process": meeting.process, "told": told}
        try:
            connection.sendall(json.dumps(greeting).encode() + b"\n")
        except OSError:
            return f"{where} hung up; is it process 0 of this run that listens there?"
        # Process 0 may have begun to wait just now, and then tells who is missing.
        answer = _receive(connection, meeting.seconds + GREETING_SECONDS)
    if not isinstance(answer, dict) or not isinstance(answer.get("verdict"), str):
        return f"{where} did not answer as process 0 of this run does; has that one ended?"
    return answer["verdict"]


def _connect(meeting: Meeting) -> socket.socket | None:
    """Connects to process 0, which may not listen yet."""
    end = time.monotonic() + meeting.seconds
    while (left := end - time.monotonic()) > 0:
        try:
            return socket.create_connection((meeting.host, meeting.port), timeout=left)
        except OSError:
            time.sleep(min(RETRY_SECONDS, left))
    return None


def _receive(connection: socket.socket, seconds: float) -> Any:
    """Returns the JSON line that the other side sends, or None where it sends none."""
    end = time.monotonic() + seconds
    received = b""
    try:
        while not received.endswith(b"\n") and len(received) < LONGEST_MESSAGE:
            connection.settimeout(max(end - time.monotonic(), 0.01))
            part = connection.recv(2**16)
            if not part:
                return None
            received += part
        return json.loads(received)
    except (OSError, ValueError):
        return None
