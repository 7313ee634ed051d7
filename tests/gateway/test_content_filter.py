"""The word list: what it catches, what it lets through, and what a client sees of it."""

import logging
import random
import string
import time
import unicodedata

import pytest

from model.text import clean_prompt
from service.errors import ConfigurationError
from service.gateway.content_filter import MAX_PHRASE_CHARS, WordList, content_filter_of, read_phrases
from service.gateway.readings import readings_of, words_of
from service.settings import Settings

SPELLINGS = {
    "as it is": "a swastika",
    "capitals": "a SwasTIKA",
    "accents": "a śwâștikä",
    "stacked accents": "a s\u0301\u0323\u0335w\u0301a\u0301s\u0301t\u0301ika",
    "full width": "a ｓｗａｓｔｉｋａ",
    "mathematical letters": "a 𝓈𝓌𝒶𝓈𝓉𝒾𝓀𝒶",
    "circled letters": "a ⓢⓦⓐⓢⓣⓘⓚⓐ",
    "letters in black squares": "a 🆂🆆🅰🆂🆃🅸🅺🅰",
    "small capitals": "a ꜱᴡᴀꜱᴛɪᴋᴀ",
    "Cyrillic letters": "a ѕԝаѕtікa".replace("к", "k"),
    "Cyrillic capitals": "a ЅԜАЅТІКА",
    "Greek letters": "a swαstικα",
    "zero-width space": "a swas\u200btika",
    "zero-width joiners": "\u200da\u200d s\u200dw\u200das\u200dtika",
    "soft hyphen": "a swas\u00adtika",
    "a filler": "a swas\u3164tika",
    "tag characters": "a swas\U000e0041tika",
    "variation selectors": "a s\ufe0fwastika",
    "right to left": "a \u202eswastika\u202c",
    "a zero-width space for a space": "a\u200bswastika\u200bflag",
    "digits": "a sw4st1k4",
    "signs": "a $w@st!k@",
    "an exclamation": "a sw@stika!!",
    "hyphens": "a swas-tika",
    "dots": "a s.w.a.s.t.i.k.a",
    "dots between other words": "a.s.w.a.s.t.i.k.a.f.l.a.g",
    "spaces": "a s w a s t i k a flag",
    "underscores": "a_swastika_flag",
    "inner underscores": "a swas_tika",
    "Chinese in between": "a swas中tika",
    "percent signs": "a %73wastika",
    "twice": "a %2573wastika",
    "HTML": "a sw&#97;stika",
    "HTML twice": "a sw&amp;#97;stika",
    "markup": "a <b>swas</b>tika",
    "quotes": "a “swastika”, please",
    "possessive": "the swastika's colour",
}


@pytest.mark.parametrize("prompt", SPELLINGS.values(), ids=SPELLINGS)
def test_a_word_is_found_however_it_is_spelled(prompt):
    assert WordList(["Swastika"]).refuses(prompt, "")


@pytest.mark.parametrize(
    ("phrase", "prompt"),
    [
        ("ass", "a classic glass of grass"),
        ("art", "a heart and a party"),
        ("gun", "guns"),
        ("gun", "a begun gunner"),
        ("black metal", "black heavy metal"),
        ("black metal", "metal black"),
        ("ss", "55 apples"),
        ("sos", "505"),
        ("cat", "concatenate"),
        ("pot", "рот"),
        ("art", "@r7ist"),
        ("猫", "a 狗"),
        ("apple", "<apple> tree".replace("apple", "pear")),
    ],
)
def test_what_only_looks_alike_passes(phrase, prompt):
    assert not WordList([phrase]).refuses(prompt, "")


@pytest.mark.parametrize(
    ("phrase", "prompt"),
    [
        ("black metal", "a BLACK   metal\nband"),
        ("black metal", "black-metal"),
        ("black-metal", "black metal"),
        ("ПРИВЕТ", "привет, мир"),
        ("größe", "GRÖSSE"),
        ("裸体", "一个裸体的人"),
        ("やま", "きれいなヤマ".replace("ヤマ", "やま")),
        ("ก้น", "รูปก้นใหญ่"),
        ("한국", "한국 사람".replace("한국", unicodedata.normalize("NFD", "한국"))),
        ("हिंसा", "यह हिंसा है"),
        ("سلام", "سَلَامٌ"),
        ("🍆", "a 🍆🍑"),
        ("1488", "number 1488"),
        ("b2b", "a B2B fair"),
        ("c'est la vie", "C’EST LA VIE".replace("’", "'")),
    ],
)
def test_phrases_and_other_scripts_are_found(phrase, prompt):
    assert WordList([phrase]).refuses(prompt, "")


def test_the_longest_phrase_need_not_match_for_a_shorter_one():
    words = WordList(["black metal band", "metal"])
    assert words.refuses("black metal", "")
    assert not words.refuses("black band", "")


def test_negative_prompts_may_say_what_is_not_wanted():
    assert not WordList(["gore"]).refuses("a castle", "gore")


@pytest.mark.parametrize("name", ["percent signs", "twice", "HTML", "markup", "Chinese in between"])
def test_what_the_models_cleaning_would_reveal_is_found(name):
    assert "swastika" in clean_prompt(SPELLINGS[name])


def test_an_ordinary_prompt_is_read_once():
    assert len(list(readings_of("a photo of a red apple on a table"))) == 1


HOSTILE = [
    "a ",
    "a.",
    ".",
    "<",
    "<a",
    "&amp;",
    "&#",
    "%25",
    "中.",
    "a\u0301",
    "а1\u200bb.%20c@ ",
    "_",
    "!",
    "\u200b",
    "ﷺ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_the_time_grows_with_the_prompts_length_and_no_faster(unit):
    def cpu_s(num_chars):
        text = (unit * num_chars)[:num_chars]
        times = []
        for _ in range(3):
            began_s = time.process_time()
            list(readings_of(text))
            times.append(time.process_time() - began_s)
        return min(times)

    assert cpu_s(4000) < 60 * max(cpu_s(500), 0.0005)  # eight times the text; squares would be near their 64


def test_a_long_list_costs_no_more_than_a_short_one():
    letters = random.Random(3)
    words = WordList("".join(letters.choices(string.ascii_lowercase, k=9)) for _ in range(20_000))
    began_s = time.process_time()
    for _ in range(100):
        assert not words.refuses("a photo of a red apple on a wooden table, soft light", "")
    assert time.process_time() - began_s < 2.0  # it is 15 ms


def listed(tmp_path, text):
    path = tmp_path / "words.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_list_has_comments_blank_lines_and_a_byte_order_mark(tmp_path):
    path = listed(tmp_path, "\ufeff# by hand\r\n\r\ngore  # and the like\r\n  black metal \r\n")
    assert read_phrases(path) == ["gore", "black metal"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lists nothing"),
        ("# nothing\n", "lists nothing"),
        ("gore\n!!!\n", "line 2"),
        ("x" * (MAX_PHRASE_CHARS + 1), "line 1"),
        (b"gore\n\xff", "not UTF-8: byte 5"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_without_showing_it(tmp_path, text, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        read_phrases(listed(tmp_path, text))
    assert "gore" not in caught.value.message


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        content_filter_of(Settings(blocked_words_file=tmp_path / "none.txt"))
    with pytest.raises(ConfigurationError, match="directory"):
        content_filter_of(Settings(blocked_words_file=tmp_path))
    assert content_filter_of(Settings()) is None


def test_words_of_a_phrase_are_its_plainest_form():
    assert words_of("Crème  Brûlée!") == ("creme", "brulee")


@pytest.fixture
def filtered(start_gateway, tmp_path):
    with start_gateway(blocked_words_file=listed(tmp_path, "swastika\nblack metal\n")) as gateway:
        yield gateway


ROUTES = ("/v1/generate", "/v1/images/generations")


@pytest.mark.parametrize("path", ROUTES)
def test_a_refused_prompt_is_never_queued_nor_told_nor_logged(filtered, path, caplog):
    caplog.set_level(logging.DEBUG)
    for prompt in ("a swas\u200btika flag", "BLACK  metal"):
        response = filtered.client.post(path, json={"prompt": prompt}, headers={"Idempotency-Key": "k"})
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["type"], error["code"], error["param"]) == (
            "invalid_request_error",
            "content_policy_violation",
            "prompt",
        )
        assert "tika" not in response.text.lower()
        assert "metal" not in response.text.lower()
        assert response.headers["X-Content-Filter"] == "word-list"
    assert filtered.worker.seen == []
    assert filtered.stats().num_waiting == 0
    assert filtered.value("rejections_total", reason="content_policy_violation") == 2
    assert filtered.value("requests_total", model=filtered.model, status="rejected") == 2
    assert not any("tika" in record.getMessage() or "metal" in record.getMessage() for record in caplog.records)
    # its key is not used up
    assert filtered.client.post(path, json={"prompt": "a flag"}, headers={"Idempotency-Key": "k"}).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Accept": "image/png"}, {"Accept": "text/event-stream"}, {"Prefer": "respond-async"}]
)
def test_the_answers_form_is_no_way_around(filtered, headers):
    response = filtered.generate(prompt="a swastika", headers=headers, n=2)
    assert response.status_code == 400
    assert filtered.worker.seen == []


@pytest.mark.parametrize("moderation", ["auto", "low"])
def test_openais_moderation_is_taken_and_changes_nothing(filtered, moderation):
    fields = {"moderation": moderation}
    assert filtered.client.post(ROUTES[1], json={"prompt": "a flag"} | fields).status_code == 200
    assert filtered.client.post(ROUTES[1], json={"prompt": "a swastika"} | fields).status_code == 400


def test_a_filter_shows_itself(filtered):
    answer = filtered.generate()
    assert answer.headers["X-Content-Filter"] == "word-list"
    assert answer.json()["content_filter"] == "word-list"
    assert filtered.generate(headers={"Prefer": "respond-async"}).headers["X-Content-Filter"] == "word-list"
    assert filtered.client.get("/v1/models").json()["data"][0]["content_filter"] == "word-list"
    assert "swastika" not in filtered.client.get("/openapi.json").text


def test_without_a_list_nothing_is_refused_and_the_answers_say_so(gateway):
    answer = gateway.generate(prompt="a swastika")
    assert answer.status_code == 200
    assert answer.headers["X-Content-Filter"] == "off"
    assert answer.json()["content_filter"] == "off"
    openai = gateway.client.post(ROUTES[1], json={"prompt": "a swastika"})
    assert openai.headers["X-Content-Filter"] == "off"
    assert gateway.client.get("/v1/models").json()["data"][0]["content_filter"] == "off"
