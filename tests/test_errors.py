"""Laws of what is told of an error that nobody raised on purpose."""

import pytest
import ray
import ray.data
from ray.exceptions import RayTaskError

from batch_nst.errors import StorageError, reason_of


def test_of_an_error_raised_on_purpose_all_is_told() -> None:
    assert reason_of(StorageError("the disk is full")) == "the disk is full"


def test_of_a_bug_the_kind_is_told_and_no_word_of_what_it_says() -> None:
    assert reason_of(KeyError("password")) == "a bug: KeyError"


def test_of_a_bug_in_a_worker_the_kind_is_told_that_began_it(ray_cluster: None) -> None:
    def fails(row: dict[str, int]) -> dict[str, int]:
        secrets = {"secret": row["id"]}
        try:
            return {"id": secrets["password"]}
        except KeyError as error:
            raise ValueError("password: 1234\npassword: 5678") from error

    with pytest.raises(RayTaskError, match="password: 1234") as task:
        ray.get(ray.remote(fails).remote({"id": 1}))
    with pytest.raises(RayTaskError, match="password: 1234") as rows:
        list(ray.data.from_items([{"id": 1}]).map(fails).iter_rows())
    assert reason_of(task.value) == reason_of(rows.value) == "a bug: KeyError, in a worker"


def test_a_kind_of_bug_that_a_function_defines_is_told_by_its_name_too(ray_cluster: None) -> None:
    def fails() -> None:
        class OddError(Exception):
            pass

        raise OddError("one line\n  another\npassword: 1234")

    with pytest.raises(RayTaskError, match="password: 1234") as task:
        ray.get(ray.remote(fails).remote())
    reason = reason_of(task.value)
    assert reason.endswith("<locals>.OddError, in a worker")
    assert "password" not in reason
