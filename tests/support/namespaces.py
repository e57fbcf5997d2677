"""A host name, or disks, for one process alone: Linux's namespaces, where this machine lets us have them."""

import os
import subprocess

import pytest


def unshared(kind: str, script: str, *words: str) -> list[str]:
    """The command line of a shell script in a namespace of its own; its arguments are `words`.

    `kind` is an option of `unshare`, such as "--uts" or "--mount". Skips the test where it is refused.
    """
    command = ["unshare", kind, *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip(f"this machine refuses `{' '.join(command)}`")
    return [*command, "sh", "-ec", script, "sh", *words]
