"""The address of a cluster's head, looked at before Ray is imported: Ray itself would retry for minutes."""

from __future__ import annotations

import os
import socket

from batch_nst.errors import ClusterError

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of HTTP/2, and so of gRPC, begins: RFC 9113, section 3.4, with an empty SETTINGS frame."""

_FRAME_BYTES, _SETTINGS = 9, 4
"""Length of a frame's header, and in its fourth byte the type of the frame that a server begins with."""


def check_address(address: str, seconds: float = 45.0) -> None:
    """Look whether a server of gRPC, as a cluster's head is, answers at an address within so many seconds.

    A head that has stopped still takes connections, and says nothing. With TLS it is only looked at whether
    something listens.

    Raises:
        ClusterError: it is not HOST:PORT, or nothing answers.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or int(port) > 0xFFFF:
        raise ClusterError(
            f"RAY_ADDRESS: given {address!r}; allowed: HOST:PORT of the cluster's head (6379 by default), "
            "auto or local; from outside a cluster use batch-nst submit"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), min(seconds, 10.0)) as head:
            if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
                head.settimeout(seconds)
                _greet(head)
    except OSError as error:
        raise ClusterError(
            f"RAY_ADDRESS {address}: {error}; no Ray answers at {address} now: start its head, correct "
            "RAY_ADDRESS, or unset it to work on this machine alone"
        ) from error


def _greet(head: socket.socket) -> None:
    """Exchange the first words of HTTP/2; OSError if the other side does not know them, or says nothing."""
    head.sendall(_HELLO)
    with head.makefile("rb") as answers:
        answer = answers.read(_FRAME_BYTES)
    if len(answer) < _FRAME_BYTES or answer[3] != _SETTINGS:
        raise OSError(f"what listens there is no Ray, and answers {answer!r}")
