"""What the crashes share."""

import pytest

from batch_nst.data.storage.store import Store
from tests.support.photo_bucket import FEW, UNITS, Bucket, fill


@pytest.fixture(scope="session")
def bucket(s3: str) -> Bucket:
    """On the object store, for a job of 12 units."""
    return _filled(f"{s3}/chaos", UNITS)


@pytest.fixture(scope="session")
def few(s3: str) -> Bucket:
    """The same for a job of few units."""
    return _filled(f"{s3}/few", FEW)


def _filled(uri: str, units: int) -> Bucket:
    fill(Store(uri), 2 * units)
    return Bucket(uri, 2 * units)
