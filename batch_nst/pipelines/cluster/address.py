"""The address of a cluster's head, looked at before Ray is imported: Ray itself would retry for minutes."""

from __future__ import annotations

import socket

from batch_nst.errors import ClusterError


def check_address(address: str, seconds: float = 10.0) -> None:
    """Look whether something listens at the address of a cluster's head.

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
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except OSError as error:
        raise ClusterError(
            f"RAY_ADDRESS {address}: {error}; no Ray answers at {address} now: start its head, correct "
            "RAY_ADDRESS, or unset it to work on this machine alone"
        ) from error
