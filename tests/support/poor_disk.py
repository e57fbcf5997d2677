"""A process whose disk has no hard links, or no exclusive rename either: the kernel refuses these calls."""

import ctypes
import errno
import struct
import subprocess
import sys

CALLS = {"link": [265, 86], "renameat2": [316]}
"""Numbers of system calls on x86-64: linkat and link; renameat2."""
_LOAD, _EQUAL, _RETURN, _ALLOW, _REFUSE = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000


def refuse(*names: str) -> None:
    """From now on this process and its children get EPERM from these calls (seccomp)."""
    numbers = [number for name in names for number in CALLS[name]]
    steps = [(_LOAD, 0, 0, 0)]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        steps.append((_EQUAL, left, 0, number))
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((38, 1, 0, 0, 0), (22, 2, program, 0, 0)):  # no new privileges; the filter
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "no seccomp here")


def python(names: list[str], code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in such a process; its arguments are `words`."""
    text = f"from tests.support.poor_disk import refuse\nrefuse(*{names!r})\n{code}"
    return subprocess.run([sys.executable, "-c", text, *words], capture_output=True, text=True, check=False)
