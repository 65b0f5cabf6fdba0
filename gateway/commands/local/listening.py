"""Ports of this machine: whether one is free, who has it, and choosing one."""

import contextlib
import errno
import socket

import psutil


def is_free(host: str, port: int) -> bool:
    """Tell whether one could listen on *port* now. Raises OSError if *host* is no address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        return True


def choose_port(kept: int | None) -> int:
    """Give the *kept* port of loopback if nobody has taken it meanwhile, else a free one."""
    if kept and is_free("127.0.0.1", kept):
        return kept
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def holder(port: int) -> str:
    """Name the process that listens on *port*; who asks may not be allowed to know."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"
