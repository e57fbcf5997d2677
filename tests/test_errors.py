"""Laws of what is told of an error that nobody raised on purpose."""

from collections.abc import Callable

import ray
import ray.data

from batch_nst.errors import StorageError, reason_of


def _caught(action: Callable[[], object]) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


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

    task = _caught(lambda: ray.get(ray.remote(fails).remote({"id": 1})))
    rows = _caught(lambda: list(ray.data.from_items([{"id": 1}]).map(fails).iter_rows()))
    assert "password: 1234" in str(task)
    assert reason_of(task) == reason_of(rows) == "a bug: KeyError, in a worker"
