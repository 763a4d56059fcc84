import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_tokenizer.errors import SpecialTokenError, TokenizerError
from lm_tokenizer.special import Choice, SpecialTokens

SPECIAL = SpecialTokens({"<s>": 1, "<s><s>": 2, "</s>": 3, "<|\u00e9|>": 4})
MANY = SpecialTokens(SPECIAL.ids | {f"<{i}>": 10 + i for i in range(20)})
FEW_AND_MANY = pytest.mark.parametrize("special", [SPECIAL, MANY], ids=["few", "many"])


@FEW_AND_MANY
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("no such thing", []),
        ("<s>", [(0, 3, 1)]),
        ("a<s>b</s>", [(1, 4, 1), (5, 9, 3)]),
        ("<s><s><s>", [(0, 6, 2), (6, 9, 1)]),
        ("<s", []),
    ],
)
def test_the_longest_special_token_is_found(
    special: SpecialTokens, text: str, found: list[tuple[int, int, int]]
) -> None:
    assert special.find(text, "all") == found
    assert special.find(text.encode(), "all") == found


def test_places_are_characters_of_a_text_and_bytes_of_bytes() -> None:
    assert SPECIAL.find("\u00fc<|\u00e9|>\u00fc", "all") == [(1, 6, 4)]
    assert SPECIAL.find("\u00fc<|\u00e9|>\u00fc".encode(), "all") == [(2, 8, 4)]


@pytest.mark.parametrize(
    ("allowed", "disallowed", "ids"),
    [
        ("all", "all", [1, 3]),
        ("all", (), [1, 3]),
        ({"<s>"}, (), [1]),
        ((), (), []),
        ({"<s>"}, {"<s>"}, [1]),
        (["<s>"], ["unheard of"], [1]),
        ({"unheard of"}, {"unheard of"}, []),
    ],
)
def test_the_choice_is_the_callers(allowed: Choice, disallowed: Choice, ids: list[int]) -> None:
    assert [token_id for _, _, token_id in SPECIAL.find("a<s>b</s>", allowed, disallowed)] == ids


@FEW_AND_MANY
def test_a_disallowed_token_is_an_error_that_names_it_and_its_place(special: SpecialTokens) -> None:
    with pytest.raises(SpecialTokenError, match=r"'</s>' at character 5.*allowed_special=\{'</s>'\}") as caught:
        special.find("\u00fc<s>b</s>", {"<s>"})
    assert (caught.value.token, caught.value.position) == ("</s>", 5)
    with pytest.raises(SpecialTokenError):
        special.find("a<s>")


def test_a_choice_that_is_a_text_is_refused() -> None:
    with pytest.raises(TokenizerError, match='"all" or a collection'):
        SPECIAL.find("a", "<s>")


@given(st.lists(st.sampled_from(["<", "s", ">", "<s>", "</s>", "|", "<|\u00e9|>", " ", "\n"])).map("".join))
def test_between_special_tokens_there_is_none(text: str) -> None:
    name_of = {token_id: name for name, token_id in SPECIAL.ids.items()}
    end, between = 0, []
    for start, stop, token_id in SPECIAL.find(text, "all"):
        assert text[start:stop] == name_of[token_id]
        between.append(text[end:start])
        end = stop
    assert not any(name in part for part in [*between, text[end:]] for name in SPECIAL.ids)


def test_without_special_tokens_nothing_is_found() -> None:
    assert SpecialTokens({}).find("a<s>", "all", "all") == []
