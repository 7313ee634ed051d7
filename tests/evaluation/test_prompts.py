"""GenEval's format read and written, and the fixed files hold what they promise."""

import json
from collections import Counter

import pytest

from model.evaluation.errors import EvaluationError
from model.evaluation.prompt_maker import DATA, NUM_TEST_PROMPTS, NUM_TUNING_PROMPTS, SMALL_WORLD, prompt_files
from model.evaluation.prompt_sets import find_prompts, load_prompts
from model.evaluation.prompts import PromptEntry, Wanted, entry_line, parse_entry, read_entries
from model.training.captions import COUNT_WORDS, vocabulary
from model.training.recolor import COLORS
from model.training.sprites import object_names
from model.training.world import is_held_out_color, is_held_out_pair

GENEVAL_LINES = (
    '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}',
    '{"tag": "counting", "include": [{"class": "knife", "count": 3}], "exclude": [{"class": "knife", "count": 4}], '
    '"prompt": "a photo of three knifes"}',
    '{"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], '
    '"prompt": "a photo of a red apple"}',
    '{"tag": "position", "include": [{"class": "cat", "count": 1}, '
    '{"class": "dog", "count": 1, "position": ["right of", 0]}], "prompt": "a photo of a dog right of a cat"}',
)
FILES = ("emoji_80", "emoji_12", "tuning_80", "tuning_12")


@pytest.fixture(params=FILES)
def file(request):
    return request.param


@pytest.fixture
def entries(file):
    return read_entries(DATA / f"{file}.jsonl")


@pytest.fixture
def objects(file):
    return object_names() if file.endswith("80") else SMALL_WORLD


@pytest.mark.parametrize("line", GENEVAL_LINES)
def test_a_line_of_genevals_file_is_read_and_written_back_to_the_letter(line):
    assert entry_line(parse_entry(line)) == line


def test_a_position_is_read_as_relation_and_target():
    entry = parse_entry(GENEVAL_LINES[3])
    assert entry.include == (Wanted("cat", 1), Wanted("dog", 1, position=("right of", 0)))


def test_held_out_prompts_say_so_and_others_are_as_genevals():
    entry = PromptEntry("colors", "a photo of a red apple", (Wanted("apple", 1, "red"),), is_held_out=True)
    assert json.loads(entry_line(entry))["held_out"] is True
    assert parse_entry(entry_line(entry)) == entry
    assert "held_out" not in json.loads(entry_line(parse_entry(GENEVAL_LINES[0])))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "Expecting"),
        (GENEVAL_LINES[0].replace("single_object", "juggling"), "tag 'juggling' is none of single_object"),
        (GENEVAL_LINES[0].replace("prompt", "text"), "prompt"),
        (GENEVAL_LINES[3].replace("right of", "beside"), "relation 'beside' is none of left of"),
        (GENEVAL_LINES[3].replace('of", 0', 'of", 1'), "position of 'dog' must point at an earlier entry, not 1"),
        (GENEVAL_LINES[0].replace('"count": 1', '"count": "many"'), "invalid literal"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{GENEVAL_LINES[0]}\n{line}\n", "utf-8")
    with pytest.raises(ValueError, match=f"prompts.jsonl, line 2: .*{complaint}"):
        read_entries(path)


def test_the_fixed_files_of_the_small_world_are_what_their_maker_makes():
    for name, text in prompt_files(SMALL_WORLD).items():
        assert (DATA / name).read_text("utf-8") == text, name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_fixed_files_of_all_objects_are_what_their_maker_makes():
    for name, text in prompt_files(object_names()).items():
        assert (DATA / name).read_text("utf-8") == text, name


def test_tasks_have_genevals_proportions(file, entries):
    expected = NUM_TEST_PROMPTS if file.startswith("emoji") else NUM_TUNING_PROMPTS
    assert Counter(entry.tag for entry in entries) == expected
    assert sum(NUM_TEST_PROMPTS.values()) == 553
    for task, number in NUM_TUNING_PROMPTS.items():
        assert abs(number - NUM_TEST_PROMPTS[task] * 120 / 553) < 1


def test_prompts_ask_for_what_they_say(entries):
    for entry in entries:
        body = entry.prompt.removeprefix("a photo of ")
        for wanted in entry.include:
            assert wanted.name[:-1] in body
            assert wanted.color is None or f"{wanted.color} {wanted.name}" in body
        colors = [wanted.color for wanted in entry.include if wanted.color]
        names = [wanted.name for wanted in entry.include]
        assert set(colors) <= set(COLORS)
        assert len(set(names)) == len(names)
        if entry.tag == "counting":
            (wanted,) = entry.include
            assert body.split()[0] == COUNT_WORDS[wanted.count]
            assert entry.exclude == (Wanted(wanted.name, wanted.count + 1),)
        elif entry.tag == "position":
            target, placed = entry.include
            assert placed.position[1] == 0
            assert body.index(placed.name) < body.index(placed.position[0]) < body.index(target.name, 3)
        elif entry.tag == "color_attr":
            assert len(set(colors)) == 2
        else:
            assert len(colors) == (entry.tag == "colors")


def test_prompts_use_only_words_that_the_world_teaches(entries, objects):
    words = {word for entry in entries for word in entry.prompt.split()}
    assert words <= set(vocabulary(tuple(objects), COLORS, ()))


def test_held_out_marks_are_true(entries):
    for entry in entries:
        names = [wanted.name for wanted in entry.include]
        has_color = any(wanted.color and is_held_out_color(wanted.name, wanted.color) for wanted in entry.include)
        assert entry.is_held_out == (has_color or (len(names) == 2 and is_held_out_pair(*names)))


@pytest.mark.parametrize("size", [80, 12])
def test_a_tenth_or_so_of_the_test_is_held_out_and_nothing_of_the_tuning(size):
    test = read_entries(DATA / f"emoji_{size}.jsonl")
    for task in ("two_object", "colors", "position", "color_attr"):
        marks = [entry.is_held_out for entry in test if entry.tag == task]
        assert 0.09 < sum(marks) / len(marks) < 0.15, task
    assert not any(entry.is_held_out for entry in read_entries(DATA / f"tuning_{size}.jsonl"))


def test_objects_colours_relations_and_numbers_are_spread_evenly(file, entries, objects):
    for task in NUM_TEST_PROMPTS:
        wanted = [thing for entry in entries if entry.tag == task for thing in entry.include]
        for values, options in (
            ([thing.name for thing in wanted], objects),
            ([thing.color for thing in wanted if thing.color], COLORS),
            ([thing.position[0] for thing in wanted if thing.position], ("left of", "right of", "above", "below")),
        ):
            if values and file.startswith("emoji"):
                counts = Counter(values)
                assert max(counts.values()) - min(counts.values()) <= 2, (task, counts)
                assert len(options) - len(counts) <= (3 if task in ("colors", "color_attr") else 0)


def test_prompts_repeat_only_where_the_world_is_too_small():
    test = read_entries(DATA / "emoji_12.jsonl")
    for task, (num_distinct, max_repeats) in {
        "single_object": (12, 7),
        "two_object": (99, 1),
        "counting": (36, 3),
        "colors": (94, 1),
        "position": (100, 1),
        "color_attr": (100, 1),
    }.items():
        counts = Counter(entry.prompt for entry in test if entry.tag == task)
        assert len(counts) == num_distinct, task
        assert max(counts.values()) == max_repeats, task
    counts = Counter(entry.prompt for entry in read_entries(DATA / "emoji_80.jsonl"))
    assert max(counts.values()) == 1


@pytest.mark.parametrize("size", [80, 12])
def test_tuning_asks_for_other_combinations_than_the_test_where_there_are_others(size):
    tested = {entry.prompt for entry in read_entries(DATA / f"emoji_{size}.jsonl")}
    tuning = read_entries(DATA / f"tuning_{size}.jsonl")
    shared = {entry.tag for entry in tuning if entry.prompt in tested}
    assert shared <= {"single_object", "counting"}


def test_a_model_is_asked_what_its_vocabulary_covers():
    small = vocabulary(SMALL_WORLD, COLORS, ())
    whole = vocabulary(object_names(), COLORS, ())
    assert find_prompts("test", whole).name == "emoji_80.jsonl"
    assert find_prompts("test", small).name == "emoji_12.jsonl"
    assert find_prompts("tuning", small).name == "tuning_12.jsonl"
    assert find_prompts("tuning", [word.upper() for word in whole]).name == "tuning_80.jsonl"
    assert find_prompts("test", None).name == "emoji_80.jsonl"


def test_a_model_that_lacks_words_of_every_file_is_told_which():
    words = set(vocabulary(SMALL_WORLD, COLORS, ())) - {"boat", "boats", "teddy"}
    with pytest.raises(EvaluationError, match=r"lacks words of even emoji_12.jsonl: boat, boats, teddy$"):
        find_prompts("test", tuple(words))


def test_a_file_of_ones_own_is_taken_as_it_is(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(GENEVAL_LINES) + "\n", "utf-8")
    prompts = find_prompts(str(path), ("apple",))
    assert prompts.entries[0].prompt == "a photo of a bench"
    assert prompts.stream == "test"
    assert prompts.classes == {"bench", "knife", "apple", "cat", "dog"}


@pytest.mark.parametrize("content", [None, "", "{}\n"])
def test_a_file_without_prompts_is_refused(tmp_path, content):
    path = tmp_path / "mine.jsonl"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(EvaluationError, match=r"mine.jsonl"):
        load_prompts(path, "test")
