"""Documents are held out by what they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_core.errors import UserError
from lm_pipeline.text.own_files import Document, split_documents

TEXTS = st.lists(st.text(max_size=8), max_size=12, unique=True)


def documents(texts: list[str]) -> list[Document]:
    return [Document(f"{i:02}.txt", text) for i, text in enumerate(texts)]


@given(TEXTS, st.floats(0.01, 0.99))
def test_each_document_is_on_one_side_in_order_and_no_side_is_empty(texts: list[str], fraction: float) -> None:
    given = documents(texts)
    train, validation = split_documents(given, fraction)
    assert sorted([*train, *validation], key=lambda document: document.name) == given
    assert [*train] == [document for document in given if document in train]
    assert [*validation] == [document for document in given if document in validation]
    assert len(given) < 2 or (train and validation)


def test_it_is_the_text_that_decides_and_not_what_is_beside_it() -> None:
    texts = [f"text {i}" for i in range(400)]
    held_out = {document.text for document in split_documents(documents(texts), 0.1)[1]}
    assert 20 < len(held_out) < 60
    assert {one.text for one in split_documents(documents(texts[::-1]), 0.1)[1]} == held_out
    fewer = {document.text for document in split_documents(documents(texts[:200]), 0.1)[1]}
    assert fewer == held_out & set(texts[:200])
    assert held_out < {document.text for document in split_documents(documents(texts), 0.2)[1]}


def test_one_document_is_trained_on() -> None:
    assert split_documents(documents(["one"]), 0.9) == (tuple(documents(["one"])), ())


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_a_fraction_that_leaves_a_side_empty_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="must be above 0 and below 1"):
        split_documents(documents(["a", "b"]), fraction)
