"""What the crashes share."""

import pytest

from batch_nst.data.storage.store import Store
from tests.support.photo_bucket import UNITS, Bucket, fill


@pytest.fixture(scope="session")
def bucket(s3: str) -> Bucket:
    """On the object store."""
    store = Store(f"{s3}/chaos")
    fill(store, 2 * UNITS)
    return Bucket(store.uri, 2 * UNITS)
