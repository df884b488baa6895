"""The embedded corpus: what it promises, and that it is the same everywhere."""

import hashlib
import json
import shutil

import pytest

from common.errors import UserError
from metaxl.corpora import load_corpus, running_text
from metaxl.embedded import LANGUAGES, SIZES, TYPES, generate, material, unlabelled
from metaxl.embedded.material import (
    MATERIAL,
    divided,
    load_language,
    pieces_of,
    sentences_of,
    split_of_mention,
    without_marks,
)
from metaxl.sentences import Sentence, checksum, label_list
from tools.embedded_data.metaxl import build

SPLITS = ("train", "dev", "test")
CORPORA_SHA256 = "cae1c22695e52d5ec75807272b4e74bedb64d8acc4efb2ca92634373a8c79fa0"
MATERIAL_SHA256 = {
    "eng": "20339533199fa954491538dfb6c464c94b0077605bf7b5658be024e6f9728af8",
    "gug": "82ac6ef0556ce2d3a19ede2dee04c94230ccebc51800f67a288f19346c36e736",
    "mri": "97d19164d9bfa9a27789e1ae9a765ffd3741a2832d1f9fd1481dd72b8f5908a4",
    "quy": "424c0010595cf6935dc94e36592a6fe9360e7c218531240d29ad9202183f9ce7",
    "tuk": "320dc7f6999b768e57825c7550e8c4358d3c38c71a509fe752dd450b2a3578c6",
}


@pytest.fixture(scope="module")
def corpora():
    return {language: load_corpus("embedded", language) for language in LANGUAGES}


def mentions(sentence: Sentence) -> list[tuple[str, tuple[str, ...]]]:
    """Types and words of the entities, read off strictly."""
    found = []
    for token, tag in zip(sentence.tokens, sentence.tags, strict=True):
        if tag.startswith("B-"):
            found.append((tag[2:], [token]))
        elif tag.startswith("I-"):
            assert found[-1][0] == tag[2:]
            found[-1][1].append(token)
    return [(kind, tuple(words)) for kind, words in found]


def all_mentions(sentences) -> set[str]:
    plain = (" ".join(words) for s in sentences for _, words in mentions(s))
    return {without_marks(words).casefold() for words in plain}


def test_it_is_the_same_on_every_machine(corpora):
    total = "".join(checksum(corpora[lang][split]) for lang in LANGUAGES for split in SPLITS)
    assert hashlib.sha256(total.encode()).hexdigest() == CORPORA_SHA256


def test_the_material_is_what_was_taken_from_the_packages():
    found = {p.stem: hashlib.sha256(p.read_bytes()).hexdigest() for p in MATERIAL.glob("*.json")}
    assert found == MATERIAL_SHA256


@pytest.mark.parametrize("language", LANGUAGES)
def test_sizes_lengths_and_tags(corpora, language):
    sizes = SIZES["eng" if language == "eng" else "target"]
    assert {split: len(s) for split, s in corpora[language].items()} == sizes
    for split in SPLITS:
        sentences = corpora[language][split]
        assert len({s.tokens for s in sentences}) == len(sentences)
        for sentence in sentences:
            assert 8 <= len(sentence.tokens) == len(sentence.tags) <= 40
            assert set(sentence.tags) <= set(label_list(TYPES))
            assert all(token and not any(c.isspace() for c in token) for token in sentence.tokens)
        kinds = [kind for s in sentences for kind, _ in mentions(s)]
        # Each type is a fair part, and some sentences have no entity.
        assert all(kinds.count(kind) > len(kinds) / 5 for kind in TYPES)
        empty = sum(not mentions(s) for s in sentences) / len(sentences)
        assert 0.1 < empty < 0.35


@pytest.mark.parametrize("language", LANGUAGES)
def test_splits_share_no_mention_and_no_text(corpora, language):
    found = [all_mentions(corpora[language][split]) for split in SPLITS]
    assert all(len(names) > 100 for names in found)
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    pieces = [
        {" ".join(p).casefold() for p in load_language(language).pieces[split]} for split in SPLITS
    ]
    assert all(len(texts) >= 10 for texts in pieces)
    assert not (pieces[0] & pieces[1] or pieces[0] & pieces[2] or pieces[1] & pieces[2])


@pytest.mark.parametrize("target", LANGUAGES[1:])
def test_no_mention_of_a_targets_test_set_is_in_the_source(corpora, target):
    assert not all_mentions(corpora["eng"]["train"]) & all_mentions(corpora[target]["test"])


def test_the_division_of_names_and_sentences():
    same = ("CANADÁ", "Canada", "canada")
    assert len({split_of_mention(name) for name in same}) == 1
    names = [split_of_mention(f"name {i}") for i in range(10_000)]
    for split, share in zip(SPLITS, (0.5, 0.15, 0.35), strict=True):
        # Five standard errors of a share of 10,000.
        assert abs(names.count(split) / 10_000 - share) < 5 * (0.25 / 10_000) ** 0.5
    sentences = [f"sentence {i}" for i in range(200)]
    splits = divided(sentences)
    assert [list(splits.values()).count(s) for s in SPLITS] == [130, 26, 44]
    assert splits == divided(sentences[::-1] + sentences)
    assert len({splits[s] for s in sentences[:20]}) == 3  # not by their place in the text


def test_sentences_are_cut_at_commas_and_joints():
    text = "One two. The United Nations have spoken here. Three: four"
    assert sentences_of(text, ["United Nations"]) == ["One two.", "Three:", "four"]
    assert pieces_of("One two three four.") == [("One", "two", "three", "four")]
    assert pieces_of("Too short, yes.") == [("Too", "short", ",", "yes")]
    assert pieces_of("Too short.") == []
    long = [f"w{i}" for i in range(30)]
    comma = " ".join([*long[:12], ",", *long[12:]])
    assert [len(p) for p in pieces_of(comma)] == [12, 18]
    joined = " ".join([*long[:15], "and", *long[15:]])
    assert [len(p) for p in pieces_of(joined, {"and"})] == [15, 16]
    assert [len(p) for p in pieces_of(" ".join(long))] == [22, 8]


@pytest.mark.parametrize(
    ("language", "word", "suffix", "expected"),
    [
        ("quy", "Lima", "in", "Limapi"),
        ("quy", "Madrid", "from", "Madridmanta"),
        ("tuk", "Aşgabat", "in", "Aşgabatda"),
        ("tuk", "Ýerewan", "from", "Ýerewandan"),
        ("tuk", "Pekin", "in", "Pekinde"),
        ("tuk", "Mary", "in", "Maryda"),
        ("tuk", "adalary", "in", "adalarynda"),
        ("tuk", "uniwersiteti", "in", "uniwersitetinde"),
        ("tuk", "dili", "from", "dilinden"),
        ("gug", "Caacupé", "in", "Caacupépe"),
        ("gug", "Tetã", "in", "Tetãme"),
        ("gug", "Luque", "from", "Luquegui"),
    ],
)
def test_suffixes_follow_the_sounds_of_the_word(language, word, suffix, expected):
    assert load_language(language).suffixed(word, suffix) == expected


def test_more_sentences_begin_with_the_same_ones():
    assert generate("quy", "train", 20) == generate("quy", "train", 60)[:20]
    labelled = {s.tokens for s in generate("quy", "train", 300)}
    other = {s.tokens for s in generate("quy", "train", 300, "unlabelled")}
    assert len(labelled & other) < 60


@pytest.mark.parametrize("language", LANGUAGES)
def test_running_text_has_no_mention_and_no_text_of_dev_or_test(corpora, language):
    lines = running_text("embedded", (language,))
    assert lines[: len(corpora[language]["train"])] == [
        " ".join(s.tokens) for s in corpora[language]["train"]
    ]
    further = generate(language, "train", 2000, "unlabelled")
    assert lines[len(corpora[language]["train"]) :] == [" ".join(s.tokens) for s in further]
    assert lines[-2000:] == unlabelled(language)
    for split in ("dev", "test"):
        assert not all_mentions(further) & all_mentions(corpora[language][split])
        hidden = (" ".join(p).casefold() for p in load_language(language).pieces[split])
        text = "\n".join(lines).casefold()
        assert not [piece for piece in hidden if len(piece) > 40 and piece in text]


def test_an_unknown_language_is_named():
    with pytest.raises(UserError, match=r"no language 'xx'.*eng, quy, mri, tuk, gug"):
        load_corpus("embedded", "xx")


def test_material_is_read_from_the_packages_formats():
    html = (
        "<body><header><h2>Preamble</h2><p>Whereas\n   <b>all</b> are free</p></header>"
        "<article data-number='1'><h2>Article 1</h2><p>One.</p><p>Two.</p></article></body>"
    )
    assert build.paragraphs(html) == {"0": ["Whereas all are free"], "1": ["One.", "Two."]}
    zones = {"America": {"Lima": {"exemplarCity": "Lima"}, "Ind": {"Knox": {"exemplarCity": "K"}}}}
    zones["Etc"] = {"Unknown": {"exemplarCity": "Unknown City"}, "UTC": {"long": {"x": "y"}}}
    assert build.cities(zones) == {"Lima": "Lima", "Knox": "K"}
    assert build.usable("Bosnia & Herzegovina")
    assert not any(map(build.usable, ("Knox, Indiana", "Congo (RDC)", "Area 51")))


def test_places_fall_back_to_the_identifier_only_where_cldr_inherits():
    def piece(content):
        return json.dumps(content).encode()

    pieces = {}
    for origin in build.ORIGINS.values():
        city = {"New_Town": {"exemplarCity": "Neustadt"}} if origin.locale == "tk" else {}
        body = {"dates": {"timeZoneNames": {"zone": {"Europe": city}}}}
        pieces[f"main/{origin.locale}/timeZoneNames.json"] = piece({"main": {origin.locale: body}})
        for name, content in (
            ("territories", {"PE": "Peru", "150": "Europe", "PE-alt-x": "P", "EU": "Union"}),
            ("languages", {"qu": "Quechua", "und": "Unknown", "en_GB": "British"}),
        ):
            body = {"localeDisplayNames": {name: content}}
            pieces[f"main/{origin.locale}/{name}.json"] = piece({"main": {origin.locale: body}})
        html = b"<article data-number='1'><p>One.</p></article>"
        pieces[f"declaration/{origin.declaration}.html"] = html
    made = build.material(pieces)
    assert made["tuk"]["places"] == ["Neustadt", "Peru"]
    assert made["eng"]["places"] == ["New Town", "Peru"]
    assert made["gug"]["places"] == ["New Town"]
    assert made["quy"]["places"] == ["Peru"]
    assert made["quy"]["languages"] == ["Quechua"]
    assert made["gug"]["languages"] == []
    assert made["mri"]["declaration"] == {"1": ["One."]}


@pytest.mark.parametrize("name", ["material/quy.json", "written/quy.json"])
def test_a_changed_letter_of_the_material_is_noticed(name, tmp_path, monkeypatch):
    shutil.copytree(material.HERE, tmp_path / "copy")
    path = tmp_path / "copy" / name
    path.write_text(path.read_text("utf-8").replace("a", "e", 1), "utf-8")
    monkeypatch.setattr(material, "HERE", tmp_path / "copy")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        material.load_language.__wrapped__("quy")
