"""Laws of `batch_nst.data.images.sandbox`: the same pixels, and a process that may be lost."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from batch_nst.data.images import codec
from batch_nst.data.images.reasons import BadImage
from batch_nst.data.images.sandbox import Decoder, Limits, decoder_for
from tests.support.colours import any_png, gamma_chunk, profile_chunk
from tests.support.photos import (
    DISPLAY_P3,
    GREY,
    JPEG,
    KINDS,
    LIMITS,
    MAX_SECONDS,
    PNG,
    RGB,
    lab,
    many_scans,
    save,
)
from tests.support.places import ROOT

SIZE = 24
CROPS = [(0, b""), (1, b"seed"), (2, b"another")]
STRICT = Limits(**LIMITS, max_seconds=MAX_SECONDS)
PATIENT = Limits(**{**LIMITS, "max_bytes": 1 << 24}, max_seconds=600)
ENDLESS = many_scans(600_000)
"""Takes a minute."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with closing(Decoder(STRICT)) as shared:
        yield shared


@pytest.fixture(scope="module")
def drafting() -> Iterator[Decoder]:
    with closing(Decoder(replace(STRICT, draft=True))) as shared:
        yield shared


def crops_of(data: bytes) -> list[bytes]:
    """What must come back for a good photo, worked out in this process."""
    picture = codec.decode(data, **LIMITS)
    return [codec.crop(picture, SIZE, number, seed).tobytes() for number, seed in CROPS]


def gone(pid: int) -> bool:
    """Whether a process has ended; an orphan's new parent may leave its entry."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.status != "failed"])
def test_every_kind_of_photo_has_its_outcome_and_the_pixels_that_it_has_in_process(
    decoder: Decoder, name: str
) -> None:
    kind = KINDS[name]
    if kind.status == "ok":
        assert decoder.crops(kind.data, SIZE, CROPS) == crops_of(kind.data)
        whole = codec.decode(kind.data, **LIMITS)
        np.testing.assert_array_equal(decoder.picture(kind.data), whole)
    else:
        with pytest.raises(BadImage) as caught:
            decoder.crops(kind.data, SIZE, CROPS)
        assert caught.value.reason == kind.reason
        assert caught.value.detail


@pytest.mark.parametrize("photo", sorted((ROOT / "jobs" / "samples" / "gallery").glob("*.jpg")), ids=str)
def test_the_centre_of_a_draft_is_that_of_the_photo_to_less_than_a_grey_level(
    decoder: Decoder, drafting: Decoder, photo: Path
) -> None:
    with Image.open(photo) as picture:
        data = save(picture.convert("RGB").resize((640, 512)), "JPEG", quality=90)
    (of_draft,), several = (drafting.crops(data, SIZE, crops) for crops in (CROPS[:1], CROPS))
    difference = np.frombuffer(of_draft, np.uint8).astype(float) - np.frombuffer(several[0], np.uint8)
    assert 0 < np.sqrt((difference**2).mean()) < 1
    assert several == decoder.crops(data, SIZE, CROPS)
    np.testing.assert_array_equal(drafting.picture(data), decoder.picture(data))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("PNG", (640, 512)),
        ("JPEG", (160, 128)),  # its half has less than three times the side of the square
        ("JPEG", (642, 512)),  # the square begins at an odd pixel
        ("JPEG", (641, 512)),
    ],
)
def test_what_is_small_or_uneven_or_no_jpeg_is_decoded_whole(
    drafting: Decoder, kind: str, size: tuple[int, int]
) -> None:
    data = save(Image.effect_noise(size, 64).convert("RGB"), kind)
    assert drafting.crops(data, SIZE, CROPS[:1]) == crops_of(data)[:1]


def test_one_process_serves_all_good_and_bad_photos(decoder: Decoder) -> None:
    decoder.crops(PNG, SIZE, CROPS)
    pid = decoder.pid
    for ask in (lambda: decoder.crops(b"", SIZE, CROPS), lambda: decoder.picture(b"")):
        with pytest.raises(BadImage, match=r"^empty: "):
            ask()
    assert decoder.crops(JPEG, SIZE, []) == []
    assert decoder.crops(JPEG, SIZE, CROPS) == crops_of(JPEG)
    assert decoder.pid == pid != os.getpid()


def test_a_process_that_dies_is_replaced_and_the_photo_tried_again(decoder: Decoder) -> None:
    decoder.crops(PNG, SIZE, CROPS)
    pid = decoder.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert decoder.crops(JPEG, SIZE, CROPS) == crops_of(JPEG)
    assert decoder.pid not in (None, pid)
    assert not psutil.pid_exists(pid)  # not even as a zombie


def test_a_photo_on_which_two_processes_die_is_rejected_and_the_next_is_decoded() -> None:
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 2:
            wait_for(lambda: decoder.pid not in (None, *killed))
            killed.append(decoder.pid)
            os.kill(killed[-1], signal.SIGSEGV)

    with closing(Decoder(PATIENT)) as decoder:
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(BadImage, match="decoder_died: the decoder ended with SIGSEGV") as caught:
            decoder.crops(ENDLESS, SIZE, CROPS)
        killer.join()
        assert caught.value.reason == "decoder_died"
        assert decoder.crops(JPEG, SIZE, CROPS) == crops_of(JPEG)
        assert not any(map(psutil.pid_exists, killed))


def test_an_interrupted_caller_finds_the_next_photo_decoded_and_not_the_rest_of_the_last() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray Train leaves one of its own

    def interrupt() -> None:
        wait_for(lambda: decoder.pid is not None)
        os.kill(os.getpid(), signal.SIGINT)

    with closing(Decoder(PATIENT)) as decoder:
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            decoder.crops(ENDLESS, SIZE, CROPS)
        interrupter.join()
        assert decoder.pid is None
        assert decoder.crops(JPEG, SIZE, CROPS) == crops_of(JPEG)


def test_threads_share_one(decoder: Decoder) -> None:
    photos = [PNG, JPEG] * 8
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: decoder.crops(data, SIZE, CROPS), photos))
    assert found == [crops_of(data) for data in photos]


def test_a_bug_is_raised_with_the_childs_traceback(decoder: Decoder) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in crop.*ValueError"):
        decoder.crops(PNG, 0, CROPS)
    assert decoder.crops(PNG, SIZE, CROPS) == crops_of(PNG)


def test_a_process_that_does_not_start_is_no_photos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="did not start: exit code 1"):
        Decoder(STRICT).crops(PNG, SIZE, CROPS)


def test_it_ends_when_it_is_closed_forgotten_or_replaced() -> None:
    decoder = Decoder(STRICT)
    decoder.close()
    decoder.crops(PNG, SIZE, CROPS)
    closed = decoder.pid
    decoder.close()
    decoder.crops(PNG, SIZE, CROPS)
    forgotten = decoder.pid
    del decoder
    gc.collect()
    assert decoder_for(STRICT) is decoder_for(Limits(**LIMITS, max_seconds=MAX_SECONDS))
    decoder_for(STRICT).crops(PNG, SIZE, CROPS)
    replaced = decoder_for(STRICT).pid
    for other in range(3):
        decoder_for(Limits(**LIMITS, max_seconds=MAX_SECONDS + 1 + other))
    gc.collect()
    assert None not in (closed, forgotten, replaced)
    assert not any(psutil.pid_exists(pid) for pid in (closed, forgotten, replaced))


PARENT = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from batch_nst.data.images.sandbox import Decoder, Limits
decoder = Decoder(Limits(8, 1 << 24, 1 << 20, float(sys.argv[3])))
decoder.crops(Path("photo.png").read_bytes(), 24, [(0, b"")])
print(decoder.pid, flush=True)
data = Path(sys.argv[2]).read_bytes()
if data:
    decoder.crops(data, 24, [(0, b"")])
sys.stdin.read()
"""
"""Finds the package by a path that is not in its environment, in a folder with traps."""


def start_parent(folder: Path, busy: bool) -> tuple[subprocess.Popen[str], int]:
    (folder / "photo.png").write_bytes(PNG)
    (folder / "busy").write_bytes(ENDLESS if busy else b"")
    for name in ("json", "numpy", "images"):
        (folder / f"{name}.py").write_text("raise SystemExit('from the wrong folder')")
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT, str(ROOT), "busy", str(MAX_SECONDS)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    return parent, int(parent.stdout.readline())


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_after_a_parent_that_was_killed(tmp_path: Path, busy: bool) -> None:
    parent, child = start_parent(tmp_path, busy)
    with parent:
        assert not gone(child)
        parent.kill()
    wait_for(lambda: gone(child))


def test_it_ends_with_a_parent_that_ends(tmp_path: Path) -> None:
    parent, child = start_parent(tmp_path, busy=False)
    with parent:
        assert not gone(child)
        assert parent.communicate("")[0] == ""
    assert parent.returncode == 0
    assert gone(child)


# Memory --------------------------------------------------------------------------------------------------


@cache
def largest(side: int) -> dict[str, bytes]:
    """Pictures of the modes and formats whose decoding holds the most at a time."""
    rgb = RGB.resize((side, side))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = np.asarray(GREY.resize((side, side))).astype(np.uint16) * 257
    return {
        "alpha, profile, turned": save(
            rgb.convert("RGBA"), "PNG", icc_profile=DISPLAY_P3, exif=turned.tobytes(), compress_level=1
        ),
        "progressive": save(rgb, "JPEG", progressive=True, quality=90, subsampling=0, exif=turned.tobytes()),
        "cmyk": save(rgb.convert("CMYK"), "JPEG", progressive=True, subsampling=0),
        "webp": save(rgb.convert("RGBA"), "WEBP", lossless=True, method=0, quality=0),
        "grey of 16 bits": save(Image.fromarray(deep), "PNG", compress_level=1),
        "floating point": save(Image.fromarray(deep.astype(np.float32)), "TIFF"),
        "grey of 32 bits": save(Image.fromarray(deep.astype(np.int32)), "TIFF", compression="tiff_lzw"),
        "lab": save(lab().resize((side, side)), "TIFF"),
        "palette": save(rgb.quantize(256), "GIF"),
        "colours of 16 bits, alpha, profile": any_png(
            np.repeat(deep[..., None], 4, -1),
            16,
            6,
            profile_chunk(DISPLAY_P3),
            (b"eXIf", turned.tobytes()[6:]),
        ),
        "alpha, gamma": any_png(
            np.asarray(rgb.convert("RGBA")), 8, 6, gamma_chunk(1), (b"eXIf", turned.tobytes()[6:])
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", largest(8))
def test_the_memory_that_is_allowed_is_enough_for_any_picture_of_the_allowed_size(name: str) -> None:
    side = 3000
    data = largest(side)[name]
    limits = Limits(min_side=8, max_bytes=len(data), max_pixels=side**2, max_seconds=600)
    with closing(Decoder(limits)) as decoder:
        decoder.crops(PNG, 512, CROPS)
        before = address_space(decoder)
        assert len(decoder.crops(data, 512, CROPS)) == len(CROPS)
        grown = address_space(decoder) - before
    assert grown < 0.8 * (limits.memory - (512 << 20))  # so that what is allowed beside is not needed


def address_space(decoder: Decoder) -> int:
    """The most that a decoder's process has had until now, bytes."""
    status = Path(f"/proc/{decoder.pid}/status").read_text()
    return 1024 * int(status.partition("VmPeak:")[2].split()[0])
