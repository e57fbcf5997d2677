"""The figures of a run, posted to an address that somebody watches. The address is a secret."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import aiohttp

from batch_nst.console import log

_SECONDS = 10.0
"""For all of it: looking the host up, connecting, its answer."""


def post(url: str, figures: str) -> None:
    """Send a JSON object; where that fails there is a warning, which tells of the URL scheme and host alone.

    Redirects are not followed: what answers with one has not taken it.
    """
    try:
        status = asyncio.run(_post(url, figures))
    except Exception as error:  # nothing ends a run that is over; and their texts may hold the URL
        why = getattr(error, "strerror", None) or type(error).__name__
    else:
        if 200 <= status < 300:
            return
        why = f"answered {status}"
    parts = urlsplit(url)
    log(f"warning: --notify {parts.scheme}://{parts.hostname}: the figures were not delivered: {why}")


async def _post(url: str, figures: str) -> int:
    """The status of the answer."""
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_SECONDS), trust_env=True)
    headers = {"Content-Type": "application/json"}
    async with session, session.post(url, data=figures, headers=headers, allow_redirects=False) as answer:
        return answer.status
