"""Measurements that a file remembers, so that a long benchmark that was cut off goes on where it was."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from batch_nst.engine.gatys import ENGINE
from batch_nst.pipelines.progress import say


class Measurements:
    """By name; each is taken once on a machine, with an engine and at a size."""

    def __init__(self, results: str, machine: dict[str, Any]) -> None:
        """Take over what a file knows of this machine.

        Args:
            results: a local file, a JSON object a line, made if it is missing; empty: nothing is remembered.
            machine: what a measurement is true of, see `machine_of`.
        """
        self._file = Path(results) if results else None
        self._machine = machine
        self.taken: dict[str, Any] = {}
        if self._file and self._file.exists():
            for line in self._file.read_text().splitlines():
                if not line.endswith("}"):
                    continue  # cut off while it was written
                record = json.loads(line)
                if record["machine"] == machine:
                    self.taken[record["name"]] = record["value"]

    def take(self, name: str, run: Callable[[], Any]) -> Any:
        """The measurement of this name: an earlier one, or what `run` measures, written down at once."""
        if name not in self.taken:
            say(f"measuring {name}")
            record = {"name": name, "machine": self._machine, "value": run()}
            line = json.dumps(record)
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a") as file:
                    file.write(f"{line}\n")
            self.taken[name] = json.loads(line)["value"]
        return self.taken[name]


def machine_of(device: torch.device, size: int) -> dict[str, Any]:
    """Processor, device, versions, and the side of the pictures."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "engine": ENGINE,
        "size": size,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
