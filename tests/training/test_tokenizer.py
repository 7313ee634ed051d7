import pytest

from model.training.captions import plural
from model.training.recolor import COLORS
from model.training.sprites import object_names
from model.training.tokenizer import BEGIN, END, build_tokenizer, known_words


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(10)


def words(tokenizer, prompt):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"])
    assert tokens[0] == BEGIN
    return " ".join(tokens[1:])


@pytest.mark.parametrize(
    ("prompt", "read_as"),
    [
        ("a photo of a red apple", "red apple"),
        ("please draw me a SHINY red apple, thanks!", "red apple"),
        ("two grey teddy bears on an orange background", "two teddybear orangebackground"),
        ("an orange orange on an orange background", "orange orange orangebackground"),
        ("a photo of an orange to the left of a dog", "orange leftof dog"),
        ("a cat right of a car", "cat rightof car"),
        ("a tv remote under a tv", "tvremote below tv"),
        ("3 hot dogs and a dog", "three hotdog and dog"),
        ("a dragon", ""),
        ("", ""),
    ],
)
def test_prompts_are_read_as_concepts(tokenizer, prompt, read_as):
    assert words(tokenizer, prompt) == read_as


@pytest.mark.parametrize("name", object_names())
def test_every_object_is_one_token_in_every_form(tokenizer, name):
    joined = name.replace(" ", "")
    for form in (name, plural(name, is_naive=False), plural(name, is_naive=True)):
        assert words(tokenizer, f"two {form}") == f"two {joined}"
        assert words(tokenizer, f"a red {form} above a cat") == f"red {joined} above cat"


@pytest.mark.parametrize("color", COLORS)
def test_every_colour_is_one_token_of_a_thing_and_another_of_a_background(tokenizer, color):
    assert words(tokenizer, f"a {color} cat on a {color} background") == f"{color} cat {color}background"


def test_prompts_are_padded_with_the_end_of_text_token_and_truncated(tokenizer):
    padded = tokenizer("a cat", padding="max_length", max_length=10)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(padded)[2:] == [END] * 8
    assert len(tokenizer("cat " * 30, truncation=True, max_length=10)["input_ids"]) == 10


def test_the_vocabulary_lists_what_a_demo_of_these_objects_understands():
    known = known_words(("apple", "teddy bear"))
    assert {"apple", "apples", "teddy", "bear", "bears", "red", "left", "background", "two"} <= set(known)
    assert "car" not in known
