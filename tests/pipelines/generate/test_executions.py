"""Laws of how a job is cut into executions of Ray Data."""

from hypothesis import given
from hypothesis import strategies as st

from batch_nst.data.dataset.plan import Chunk
from batch_nst.data.dataset.plan_files import Group
from batch_nst.pipelines.generate.actors import first_chunks, units_of_execution


@given(st.lists(st.integers(1, 300)), st.integers(1, 600))
def test_an_execution_is_as_large_as_it_may_be_and_no_larger(sizes: list[int], most: int) -> None:
    chunks = [Chunk(Group("segment", 0, size), ["unit"] * size) for size in sizes]
    parts, rest = [], chunks
    while rest:
        parts.append(first_chunks(rest, most))
        rest = rest[len(parts[-1]) :]
    assert [chunk for part in parts for chunk in part] == chunks
    counts = [sum(len(chunk.units) for chunk in part) for part in parts]
    assert all(count <= most or len(part) == 1 for count, part in zip(counts, parts, strict=True))
    for count, following in zip(counts, parts[1:], strict=False):
        assert count + len(following[0].units) > most


@given(st.integers(0, 10**6), st.floats(0.1, 10**6))
def test_an_execution_lasts_20_minutes_at_the_rate_of_the_one_before(made: int, seconds: float) -> None:
    most = units_of_execution(made, seconds)
    assert (most + 1) * seconds >= made * 20 * 60
    assert units_of_execution() == 24_000 <= most  # 96 MB of the driver's memory
