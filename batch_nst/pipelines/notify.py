"""Posts the figures of a run to a webhook (`--notify`). Its URL is a secret."""

from __future__ import annotations

import os
import signal
import sys
from urllib.parse import urlsplit

VARIABLE = "BATCH_NST_NOTIFY"
"""Environment variable that replaces `--notify`."""

_SECONDS = 10.0
"""Limit for the whole request, DNS included."""


def hide_url(url: str | None) -> str | None:
    """Remove the URL of `--notify`, a secret, from where others could see it; returns it.

    Everybody on the machine sees the arguments of a process, and Ray lists those of drivers. So a command
    that has the URL among its arguments restarts itself without it, with the URL in the environment. From
    there it is removed too, as Ray's processes inherit the environment.
    """
    os.environ.pop(VARIABLE, None)
    words: list[str] = []
    for word in sys.orig_argv[1:] if url else ():
        if word == url and words[-1].startswith("--n"):
            words.pop()
        elif not (word.startswith("--n") and word.endswith(f"={url}")):
            words.append(word)
    if url and len(words) < len(sys.orig_argv) - 1:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # handlers do not survive this, but SIG_IGN does
        os.execve(sys.executable, [sys.executable, *words], {**os.environ, VARIABLE: url})
    return url


def deliver(url: str | None, figures: str) -> None:
    """Post the figures of a finished command, if there is a URL. SIGTERM is ignored meanwhile."""
    if url is None:
        return
    on_sigterm = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    post(url, figures)
    signal.signal(signal.SIGTERM, on_sigterm)


def post(url: str, figures: str) -> None:
    """Post a JSON object. A failure is only a warning, which shows no more of the URL than scheme and host.

    Redirects are not followed, and count as failures.
    """
    import asyncio

    from batch_nst.console import warn

    try:
        status = asyncio.run(_post(url, figures))
    except Exception as error:  # the run is over, so nothing may fail it; texts may hold the URL
        why = getattr(error, "strerror", None) or type(error).__name__
    else:
        if 200 <= status < 300:
            return
        why = f"answered {status}"
    parts = urlsplit(url)
    warn(f"warning: --notify {parts.scheme}://{parts.hostname}: the figures were not delivered: {why}")


async def _post(url: str, figures: str) -> int:
    """The HTTP status of the answer."""
    import aiohttp

    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_SECONDS), trust_env=True)
    headers = {"Content-Type": "application/json"}
    async with session, session.post(url, data=figures, headers=headers, allow_redirects=False) as answer:
        return answer.status
