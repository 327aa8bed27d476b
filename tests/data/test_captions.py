import io
import json
import logging
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxembed.data import ImageCaptions, RetrievalSet, load_captions, make_retrieval_set
from jaxembed.data import captions as captions_module
from jaxembed.data.captions import new_combinations
from jaxembed.data.glyphs import FONTS, read_glyphs

COUNT = 12


def picture(grey, size=(8, 8)):
    content = io.BytesIO()
    Image.fromarray(np.full(size, grey, np.uint8)).save(content, "png")
    return content.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Twelve grey pictures, each captioned by its grey."""
    lines = ["image,caption"]
    for number in range(COUNT):
        (tmp_path / f"{number}.png").write_bytes(picture(20 * number))
        lines.append(f"{number}.png,grey number {number}")
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def change(folder, old, new):
    table = folder / "captions.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))


def everything(splits):
    """Greys by caption over both parts."""
    found = {}
    for part in (splits.train, *splits.tests.values()):
        for pixels, captions in zip(part.pixels, part.captions, strict=True):
            found[captions] = int(pixels.max())
    return found


def test_pictures_come_with_the_captions_of_their_table(folder):
    change(folder, "0.png,grey number 0\n", "0.png,grey number 0\n0.png,black\n")
    splits = load_captions(ImageCaptions(str(folder)))
    wanted = {(f"grey number {number}",): 20 * number for number in range(1, COUNT)}
    assert everything(splits) == wanted | {("grey number 0", "black"): 0}
    assert splits.train.pixels.shape[1:] == (8, 8, 1) and splits.train.pixels.dtype == np.uint8
    again = load_captions(ImageCaptions(str(folder / "captions.csv"), size=16, channels=3))
    assert again.train.pixels.shape[1:] == (16, 16, 3)
    assert again.train.captions == splits.train.captions


def test_equal_captions_have_equal_ids(folder):
    change(folder, "grey number 3", "grey number 4")
    splits = load_captions(ImageCaptions(str(folder)))
    ids = {}
    for part in (splits.train, *splits.tests.values()):
        for number, (caption, *_) in zip(part.ids.tolist(), part.captions, strict=True):
            assert ids.setdefault(caption, number) == number
    assert len(set(ids.values())) == len(ids) == COUNT - 1


def test_a_picture_stays_in_its_split_when_others_come(folder):
    before = load_captions(ImageCaptions(str(folder), held_out_share=0.3))
    (folder / "new.png").write_bytes(picture(7))
    with open(folder / "captions.csv", "a") as table:
        table.write("new.png,a new one\n")
    after = load_captions(ImageCaptions(str(folder), held_out_share=0.3))
    assert set(before.train.captions) <= set(after.train.captions)
    assert set(before.tests["test"].captions) <= set(after.tests["test"].captions)


def truncate(path):
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("spoil", "kind", "named"),
    [
        (lambda f: (f / "3.png").unlink(), "missing images", "names 3.png"),
        (lambda f: truncate(f / "3.png"), "unreadable images", "3.png cannot be read"),
        (lambda f: change(f, "3.png,grey number 3\n", ""), "images without captions", "3.png has"),
        (lambda f: change(f, "3.png,", ","), "captions without images", "line 5"),
        (lambda f: change(f, "grey number 3", "  "), "empty captions", "line 5"),
        (lambda f: change(f, "grey number 3", "x" * 51), "too long captions", "line 5.*51 char"),
        (lambda f: change(f, "3.png,", "3.png,a,"), "ragged rows", "line 5 has 3 columns"),
    ],
)
def test_bad_pairs_are_refused_or_skipped_and_counted(folder, caplog, spoil, kind, named):
    data = ImageCaptions(str(folder), longest=50)
    whole = load_captions(data)
    assert whole.skipped == {}
    spoil(folder)
    with pytest.raises(ValueError, match=named + ".*on_bad skip"):
        load_captions(data)
    with caplog.at_level(logging.WARNING, "jaxembed"):
        splits = load_captions(ImageCaptions(str(folder), longest=50, on_bad="skip"))
    assert splits.skipped[kind] == 1 and f"1 {kind} skipped" in caplog.text
    good = {key: grey for key, grey in everything(whole).items() if key != ("grey number 3",)}
    assert everything(splits) == good


def test_pictures_of_several_sizes_are_named(folder):
    (folder / "3.png").write_bytes(picture(60, (9, 8)))
    with pytest.raises(ValueError, match=r"8 x \d pixels.*set data.size"):
        load_captions(ImageCaptions(str(folder)))
    assert len(everything(load_captions(ImageCaptions(str(folder), size=8)))) == COUNT


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """The same pictures in two shards, one caption in a JSON file and the others in text files."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:03}.tar", "w") as archive:
            for number in range(shard * COUNT // 2, (shard + 1) * COUNT // 2):
                add(archive, f"set/{number:02}.png", picture(20 * number))
                caption = f"grey number {number}"
                if number:
                    add(archive, f"set/{number:02}.txt", caption.encode())
                else:
                    add(archive, "set/00.json", json.dumps({"caption": [caption]}).encode())
    return tmp_path


def test_shards_give_what_a_folder_gives(shards):
    found = everything(load_captions(ImageCaptions(str(shards))))
    assert found == {(f"grey number {number}",): 20 * number for number in range(COUNT)}
    assert len(everything(load_captions(ImageCaptions(str(shards / "001.tar"))))) == COUNT // 2
    assert sorted(path.name for path in shards.iterdir()) == ["000.tar", "001.tar"]


def damage(path, start, content):
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + content + whole[start + len(content) :])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[: 5 * 512 + 100]),  # in a member
        lambda path: path.write_bytes(path.read_bytes()[: 4 * 512]),  # between two
        lambda path: path.write_bytes(path.read_bytes()[: 4 * 512 + 70]),  # in a header
        lambda path: damage(path, 4 * 512, b"\xff" * 512),  # a header
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no tar at all" * 100),
    ],
)
def test_a_broken_shard_is_named_and_used_up_to_there(shards, spoil):
    spoil(shards / "001.tar")
    with pytest.raises(ValueError, match="001.tar is damaged or cut short"):
        load_captions(ImageCaptions(str(shards)))
    splits = load_captions(ImageCaptions(str(shards), on_bad="skip"))
    found = everything(splits)
    assert splits.skipped["broken shards"] == 1
    assert COUNT // 2 <= len(found) < COUNT
    assert all(found[f"grey number {number}",] == 20 * number for number in range(COUNT // 2))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("set/lone.txt", b"a caption", "captions without images"),
        ("set/lone.png", picture(1), "images without captions"),
        ("set/lone.json", b"{", "unreadable captions"),
        ("set/lone.json", b'{"caption": 3}', "unreadable captions"),
        ("set/lone.txt", b"\xff", "unreadable captions"),
    ],
)
def test_a_bad_example_of_a_shard_is_named(shards, name, content, kind):
    with tarfile.open(shards / "001.tar", "a") as archive:
        add(archive, name, content)
    with pytest.raises(ValueError, match="001.tar, set/lone.*on_bad skip"):
        load_captions(ImageCaptions(str(shards)))
    splits = load_captions(ImageCaptions(str(shards), on_bad="skip"))
    assert splits.skipped == {kind: 1} and len(everything(splits)) == COUNT


def test_nothing_good_is_an_error(folder):
    (folder / "captions.csv").write_text("image,caption\nnowhere.png,nothing\n")
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="nothing to use: 1 missing images, first: .*nowhere.png"):
        load_captions(ImageCaptions(str(folder), on_bad="skip"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "glyps"}, FileNotFoundError, "'glyphs'"),
        ({"held_out": ("Mono",)}, KeyError, "DejaVu Sans Mono"),
        (
            {"held_out": ("STIX", "DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")},
            ValueError,
            "all",
        ),
        ({"held_out_share": 1.0}, ValueError, "between 0 and 1"),
        ({"size": 3}, ValueError, "8 or more"),
        ({"channels": 2}, ValueError, "1 .grey. or 3"),
        ({"longest": 0}, ValueError, "1 or more"),
        ({"languages": ("it",)}, ValueError, "some of"),
    ],
)
def test_wrong_options_are_explained(options, error, message):
    with pytest.raises(error, match=message):
        load_captions(ImageCaptions(**options))


def test_columns_are_named_where_they_lack(folder):
    with pytest.raises(KeyError, match=r"no column 'text'.*\['image', 'caption'\]"):
        load_captions(ImageCaptions(str(folder), caption_field="text"))
    (folder / "captions.csv").unlink()
    with pytest.raises(FileNotFoundError, match="neither captions.csv nor"):
        load_captions(ImageCaptions(str(folder)))


@pytest.fixture
def emoji(tmp_path):
    rows = [
        {f"label_{language}": f"{language} {row}" for language in ("en", "de", "fr")}
        for row in range(4)
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    for grey, style in enumerate(("google", "openmoji", "fluent")):
        numbers = np.arange(4 if grey else 3, dtype=np.int32)
        images = np.full((len(numbers), 64, 64, 3), 10 * grey, np.uint8)
        np.savez(tmp_path / f"{style}.npz", images=images, row=numbers)
    return tmp_path


def test_a_style_is_held_out_and_asked_in_each_language(emoji):
    splits = load_captions(ImageCaptions(str(emoji), size=8, channels=3, languages=("en", "fr")))
    assert splits.train.pixels.shape == (7, 8, 8, 3) and splits.train.pixels.max() == 10
    assert splits.train.captions[0] == ("en 0", "fr 0")
    assert list(splits.tests) == ["fluent", "fluent (fr)"]
    asked = splits.retrieval("fluent (fr)")
    assert [asked.candidates[row] for row in asked.relevant[:, 0]] == [f"fr {n}" for n in range(4)]
    other = load_captions(ImageCaptions(str(emoji), held_out=("google",)))
    assert len(other.train) == 8 and set(other.retrieval("google", among="test").candidates) == {
        "en 0",
        "en 1",
        "en 2",
    }
    (emoji / "fluent.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="fluent.npz is damaged"):
        load_captions(ImageCaptions(str(emoji)))


def test_clip_art_comes_with_its_titles(tmp_path):
    described = [
        {
            "path": f"{n}.svg",
            "title": f"Tom &amp; {n}",
            "desc": "",
            "keywords": ["unsorted", "cat"],
            "usable": n != 1,
        }
        for n in range(4)
    ]
    (tmp_path / "meta.json").write_text(json.dumps(described))
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "images64.npz", images=images)
    found = everything(load_captions(ImageCaptions(str(tmp_path), channels=3)))
    assert found == {(f"Tom & {n}", "cat"): n for n in (0, 2, 3)}


def test_tfds_elements_are_read_as_coco_has_them(monkeypatch):
    def element(number, texts):
        image = np.full((9 + number, 8, 3), number, np.uint8)
        return {"image": image, "captions": {"text": [text.encode() for text in texts]}}

    opened = [element(n, [f"first {n}", f"second {n}"]) for n in range(6)]

    def open_source(name):
        if name.endswith(":test"):
            raise KeyError(name)
        return opened[:4] if name.endswith(":train") else opened[4:]

    monkeypatch.setattr(captions_module, "open_tfds", open_source)
    splits = load_captions(ImageCaptions("tfds:coco_captions", size=8, channels=3))
    assert len(splits.train) == 4 and splits.train.captions[1] == ("first 1", "second 1")
    assert splits.tests["validation"].pixels.max() == 5
    opened[2] = element(2, [])
    with pytest.raises(ValueError, match="coco_captions:train, 2: the image has no caption"):
        load_captions(ImageCaptions("tfds:coco_captions", size=8))
    kept = load_captions(ImageCaptions("tfds:coco_captions", size=8, on_bad="skip"))
    assert kept.skipped == {"images without captions": 1} and len(kept.train) == 3


@pytest.fixture(scope="module")
def glyph_splits():
    return load_captions(ImageCaptions(size=16))


def test_glyphs_of_held_out_fonts_and_characters_are_not_trained_on(glyph_splits):
    splits = glyph_splits
    assert list(splits.tests) == ["DejaVu Sans Mono", "STIX", "new characters"]
    trained = {captions[0] for captions in splits.train.captions}
    words = {word for name in trained for word in name.replace("-", " ").split()}
    new = {captions[0] for captions in splits.tests["new characters"].captions}
    assert new and not new & trained
    assert all(set(name.replace("-", " ").split()) <= words for name in new)
    seen = {pixels.tobytes() for pixels in splits.train.pixels}
    shared = np.mean([p.tobytes() in seen for p in splits.tests["DejaVu Sans Mono"].pixels])
    assert shared < 0.2  # full blocks, dots and lines are drawn alike in both
    asked = splits.retrieval("STIX")
    assert asked.candidates[asked.relevant[0, 0]] == splits.tests["STIX"].captions[0][0]
    assert len(asked.candidates) == len(splits.names["STIX"]) > 7000


def test_glyphs_are_drawn_alike_every_time(glyph_splits):
    again = load_captions(ImageCaptions(size=16))
    assert again.train.fingerprint() == glyph_splits.train.fingerprint()
    assert not np.array_equal(again.train.pixels[0], again.train.pixels[1])


def test_a_capital_is_larger_than_its_small_letter():
    drawn = read_glyphs(32)
    assert set(drawn) == set(FONTS)
    for images, names in drawn.values():
        ink = dict(zip(names, (images > 128).any(axis=2).sum(axis=1), strict=True))
        assert ink["LATIN CAPITAL LETTER O"] > ink["LATIN SMALL LETTER O"] > 5
        assert "SPACE" not in ink
        assert (images.reshape(len(images), -1).max(axis=1) > 0).all()


def test_new_combinations_keep_every_word():
    names = [f"{letter} {number}" for letter in "ABC" for number in range(3)] + ["ALONE"]
    held_out = new_combinations(names, 0.9)
    kept = set(names) - held_out
    assert "ALONE" in kept and held_out
    assert {w for n in held_out for w in n.split()} <= {w for n in kept for w in n.split()}
    assert new_combinations(reversed(names), 0.9) == held_out


def test_retrieval_set_comes_back_from_its_file(tmp_path):
    images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 1)
    asked = make_retrieval_set(images, ["ä", "b", "c"], [[0, 2], [1]], pools=[[0, 1, 2], [1]])
    asked.save(tmp_path / "asked.npz")
    again = RetrievalSet.load(tmp_path / "asked.npz")
    np.testing.assert_array_equal(again.queries, images)
    assert again.candidates == ("ä", "b", "c")
    np.testing.assert_array_equal(again.relevant, [[0, 2], [1, -1]])
    np.testing.assert_array_equal(again.gains, [[1, 1], [1, 0]])
    np.testing.assert_array_equal(again.pools, [[0, 1, 2], [1, -1, -1]])
    back = again.reversed()
    assert back.queries == ("ä", "b", "c") and back.relevant[:, 0].tolist() == [0, 1, 0]
    truncate(tmp_path / "asked.npz")
    with pytest.raises(ValueError, match="no set of queries"):
        RetrievalSet.load(tmp_path / "asked.npz")


def test_retrieval_set_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="a row of each a query"):
        make_retrieval_set(["a", "b"], ["c"], [[0]])
    with pytest.raises(ValueError, match="relevant has numbers from 0 to 1"):
        make_retrieval_set(["a"], ["c"], [[0, 1]])
    with pytest.raises(ValueError, match="pools has numbers"):
        make_retrieval_set(["a"], ["c"], [[0]], pools=[[3]])
