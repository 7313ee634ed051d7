"""What `emmdit generate` makes of prompts and names."""

from pathlib import Path

import pytest

from service.cli.orders import choose_format, existing_files, full_template, plan, read_prompts, slug_of


def dice(num_sides):
    return num_sides - 1


def test_prompts_are_lines_and_empty_ones_are_none():
    assert read_prompts([" a red apple \r\n", "\n", "  ", "# a hash"]) == ["a red apple", "# a hash"]


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("A photo of a Red   Apple!", "a-photo-of-a-red-apple"),
        ("Crème brûlée", "creme-brulee"),
        ("../../etc/passwd", "etc-passwd"),
        ("日本", "picture"),
        ("word " * 40, "word-word-word-word-word-word-word-word-word-wor"),
    ],
)
def test_a_prompt_becomes_a_name_that_every_file_system_takes(prompt, slug):
    assert slug_of(prompt) == slug


def test_names_count_pictures_from_one_and_know_their_seeds():
    orders = plan(["one", "two"], {"n": 2, "seed": 7}, "{index:02}-{slug}-{seed}.png", dice)
    files = [str(file) for order in orders for file in order.files]
    assert files == ["01-one-7.png", "02-one-8.png", "03-two-7.png", "04-two-8.png"]
    assert [order.first_index for order in orders] == [1, 3]


def test_a_seed_that_nobody_chose_is_drawn_here_and_leaves_room_for_the_next_ones():
    (order,) = plan(["one"], {"n": 3}, None, dice)
    assert order.options["seed"] == 2**32 - 3
    assert order.files is None


def test_two_pictures_in_one_file_are_refused():
    with pytest.raises(ValueError, match=r"pictures 1 and 2 would both be out.png; tell them apart"):
        plan(["one", "two"], {}, "out.png", dice)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt}.png", "{prompt} is not known"),
        ("{slug.__class__}.png", "is not known"),
        ("{}.png", "is not known"),
        ("{index", "is no name"),
    ],
)
def test_a_name_with_a_field_that_there_is_not_is_refused(template, message):
    with pytest.raises(ValueError, match=message):
        full_template(template, None)


def test_a_format_that_a_field_does_not_have_is_refused():
    with pytest.raises(ValueError, match="is no name"):
        plan(["one"], {}, full_template("{slug:03d}.png", None), dice)


def test_a_folder_gets_names_of_our_own(tmp_path):
    assert full_template(str(tmp_path), "webp") == str(tmp_path / "{slug}-{seed}.webp")
    assert full_template("new/", None) == "new/{slug}-{seed}.png"
    assert full_template(None, "jpeg") == "{slug}-{seed}.jpg"


def test_the_format_follows_from_the_ending_and_may_not_contradict_it():
    assert choose_format("a.JPG", None) == "jpeg"
    assert choose_format("a.webp", "webp") == "webp"
    assert choose_format(None, None) is None
    with pytest.raises(ValueError, match="contradict"):
        choose_format("a.png", "jpeg")
    with pytest.raises(ValueError, match="allowed: png, jpeg, webp"):
        choose_format("a", "gif")


def test_files_that_exist_are_known_before_anything_is_drawn(tmp_path):
    (tmp_path / "2.png").touch()
    orders = plan(["one", "two"], {}, str(tmp_path / "{index}.png"), dice)
    assert existing_files(orders) == [Path(tmp_path / "2.png")]
