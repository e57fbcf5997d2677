"""What the crashes share."""

import pytest
from photo_bucket import UNITS, Bucket, fill

from batch_nst.data.storage.store import Store


@pytest.fixture(scope="session")
def bucket(s3: str) -> Bucket:
    """On the object store."""
    store = Store(f"{s3}/chaos")
    fill(store, 2 * UNITS)
    return Bucket(store.uri, 2 * UNITS)
