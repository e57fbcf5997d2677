"""Laws of `batch_nst.uris`: what a name looks like does not make a folder of it."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_nst.errors import RecipeError
from batch_nst.pipelines.commands import plan
from batch_nst.recipe_file import load_recipe
from batch_nst.uris import meant_by

MEANT = {
    "s3:/bucket/out": "s3://bucket/out",
    "S3:/bucket/out": "s3://bucket/out",
    " s3://bucket/out": "s3://bucket/out",
    "gs:/bucket": "gs://bucket",
    "abfs:/box/out": "abfs://box/out",
    "https:/host/out": "https://host/out",
    "file:/out": "/out",
    "FILE:/out": "/out",
    "file://out": "/out",
    "file://localhost/out": "/out",
    "$HOME/out": "the value of $HOME, which is not filled in here",
    "/data/$USER": "the value of $USER, which is not filled in here",
    "s3://bucket/$USER/out": "the value of $USER, which is not filled in here",
    "out-${DAY}": "the value of ${DAY}, which is not filled in here",
    "~": "the value of ~, which is not filled in here",
    "~nobody-here/out": "the value of ~nobody-here, which is not filled in here",
}
MEANS_ITSELF = [
    *("out", "/data/out", "./out", "../out", "s3://bucket/out", "S3://bucket/out", "file:///data/out"),
    *(
        "https://host/out",
        "a:b/c",
        "/data/s3:/x",
        "s3:x",
        "s3",
        "price$list",
        "/a/$Recycle.bin/x",
        "a~",
        "/b/~a",
    ),
]


@pytest.mark.parametrize("name", MEANT)
def test_what_a_name_was_meant_to_be(name: str) -> None:
    assert meant_by(name) == MEANT[name]


@pytest.mark.parametrize("name", MEANS_ITSELF)
def test_a_name_that_means_itself(name: str) -> None:
    assert meant_by(name) is None


@given(
    st.sampled_from(["s3", "gs", "abfs", "az", "https"]),
    st.from_regex(r"[a-z][a-z0-9/.-]{0,20}", fullmatch=True),
)
def test_a_uri_that_was_taken_for_a_path_is_known_by_what_is_left_of_it(protocol: str, rest: str) -> None:
    whole = f"{protocol}://{PurePosixPath(rest)}"
    assert meant_by(whole) is None
    assert meant_by(str(PurePosixPath(whole))) == whole


@pytest.mark.parametrize("name", ["s3:/bucket/out", "$HOME/out", "~nobody-here/out", "file:/out"])
def test_an_output_of_such_a_name_is_refused_as_it_was_given_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text = f"output: {name}\nstyle: {{image: a.png}}\ngenerate: {{input: photos}}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        plan(load_recipe("recipe.yaml"))
    assert str(caught.value) == f"output {name}: no folder gets such a name; probably meant: {meant_by(name)}"
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
