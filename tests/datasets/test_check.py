import hashlib
import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
from PIL import Image

from fattr import storage
from fattr.attributes import attribute
from fattr.datasets.check import (
    CONFLICT,
    GREY_LONG_SIDE,
    LABEL,
    LEAK,
    LISTED_TWICE,
    Problem,
    check_images,
    digest,
    laplacian_variance,
    leaks,
    problems,
    read_facts,
    refuse_problems,
    repeats,
    without_leaks,
)
from fattr.datasets.split import DatasetSplit
from fattr.errors import StorageError, UsageError
from fattr.records import Sample, Status

LUMA = (0.299, 0.587, 0.114)


def png(pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(out, "PNG")
    return out.getvalue()


def jpeg(pixels, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def bomb() -> bytes:
    """A PNG whose header announces 2.5 thousand million pixels."""
    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.fixture
def put(tmp_path):
    """A function that writes a file and gives its URI."""

    def write(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return (tmp_path / name).as_uri()

    return write


def noise(seed: int, *, height: int = 96, width: int = GREY_LONG_SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def split_of(name, uris, labels=(), problems=()):
    labels = labels or [{}] * len(uris)
    samples = tuple(Sample(uri, one) for uri, one in zip(uris, labels, strict=True))
    return DatasetSplit(
        name="drawn",
        split=name,
        attributes=(attribute("smiling"), attribute("bald")),
        samples=samples,
        licence="for tests",
        research_only=False,
        problems=tuple(problems),
    )


# Facts of one image


@pytest.mark.parametrize("shape", [(96, 128), (1, 1), (1, 40), (40, 1), (2, 3)])
def test_laplacian_variance_is_scipys(shape):
    grey = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    theirs = scipy.ndimage.laplace(grey.astype(np.float64), mode="nearest").var()
    assert laplacian_variance(grey) == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_figures_of_a_picture_that_needs_no_scaling(put):
    pixels = noise(1)
    facts = read_facts(put("a.png", png(pixels)))
    luma = pixels @ np.array(LUMA)
    assert facts.brightness == pytest.approx(luma.mean(), abs=0.5)  # whole numbers inside
    assert facts.contrast == pytest.approx(luma.std(), rel=0.01)
    assert facts.sharpness == pytest.approx(
        scipy.ndimage.laplace(luma, mode="nearest").var(), rel=0.01
    )


def test_figures_hardly_depend_on_the_size_and_kind_of_the_file(put):
    """A JPEG of 1024 pixels is decoded smaller, one of 500 and a PNG are not."""
    picture = Image.fromarray(skimage.data.astronaut())
    large = picture.resize((1024, 1024), Image.Resampling.LANCZOS)
    one = read_facts(put("large.png", png(large)))
    others = [
        read_facts(put("large.jpg", jpeg(large))),
        read_facts(put("middle.jpg", jpeg(picture.resize((500, 500), Image.Resampling.LANCZOS)))),
    ]
    assert [other.width for other in others] == [1024, 500]
    for other in others:
        assert other.brightness == pytest.approx(one.brightness, rel=0.01)
        assert other.contrast == pytest.approx(one.contrast, rel=0.01)
        assert other.sharpness == pytest.approx(one.sharpness, rel=0.05)


def test_sharpness_falls_with_blur(put):
    picture = skimage.data.astronaut()[::2, ::2]
    sharpness = [
        read_facts(
            put(f"{sigma}.png", png(scipy.ndimage.gaussian_filter(picture, (sigma, sigma, 0))))
        ).sharpness
        for sigma in (0, 2, 4, 8)
    ]
    assert all(b < 0.5 * a for a, b in itertools.pairwise(sharpness))


def test_a_grey_card_has_no_contrast_and_no_sharpness(put):
    facts = read_facts(put("grey.png", png(np.full((10, 300, 3), 90))))
    assert (facts.brightness, facts.contrast, facts.sharpness) == (90, 0, 0)


def test_size_is_upright_and_hash_is_of_the_file(put):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(noise(2, height=300, width=600), exif=exif)
    facts = read_facts(put("turned.jpg", data))
    assert (facts.width, facts.height, facts.size_bytes) == (300, 600, len(data))
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    assert facts.status == "ok"


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2000, 3)])
def test_narrow_pictures_have_figures(put, size):
    facts = read_facts(put("narrow.png", png(noise(0, height=size[0], width=size[1]))))
    assert np.isfinite([facts.brightness, facts.contrast, facts.sharpness]).all()


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        pytest.param(b"", "unreadable", "empty", id="empty"),
        pytest.param(b"hello", "unreadable", "unknown", id="text"),
        # Large enough to be decoded at 1/8: the whole file must be looked at all the same.
        pytest.param(
            jpeg(noise(3, height=1200, width=1600))[:-4000], "unreadable", "truncated", id="cut"
        ),
        pytest.param(bomb(), "too_large", "pixels", id="bomb"),
    ],
)
def test_a_damaged_file_is_a_status_with_a_reason(put, data, status, reason):
    facts = read_facts(put("bad.jpg", data))
    assert facts.status == status
    assert reason in facts.reason
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    assert (facts.width, facts.brightness) == (None, None)


def test_a_missing_file_is_a_status(tmp_path):
    facts = read_facts((tmp_path / "gone.jpg").as_uri())
    assert (facts.status, facts.sha256) == ("missing", None)
    assert facts.reason


def test_a_refused_file_is_a_status_and_a_failing_storage_is_an_error(monkeypatch):
    def refuse(uri):
        raise StorageError(uri.rpartition("/")[2], uri, "HTTP 4xx")

    monkeypatch.setattr(storage, "read_bytes", refuse)
    assert read_facts("s3://bucket/denied").status == "denied"
    with pytest.raises(StorageError, match="s3://bucket/unavailable: unavailable"):
        read_facts("s3://bucket/unavailable")


def test_a_file_is_read_once_however_often_it_is_listed(put, monkeypatch):
    uris = [put(f"{i}.png", png(noise(i, height=4, width=4))) for i in range(3)]
    read, read_bytes = [], storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri: read.append(uri) or read_bytes(uri))
    splits = [split_of("train", [uris[0], uris[1], uris[0]]), split_of("test", [uris[1], uris[2]])]
    facts = check_images(splits, num_threads=3)
    assert sorted(read) == sorted(uris)
    assert list(facts) == uris
    assert all(one.image_uri == uri for uri, one in facts.items())


# What is wrong


@pytest.fixture
def shuffled(put):
    """A function that deals few pictures, under many names, to three splits at random."""

    def deal(seed):
        rng = np.random.default_rng(seed)
        pictures = [png(noise(i, height=4, width=4)) for i in range(30)]
        contents, splits = {}, []
        for name in ("train", "valid", "test"):
            chosen = rng.integers(0, len(pictures), 12)
            uris = [put(f"{seed}-{name}-{i}.png", pictures[k]) for i, k in enumerate(chosen)]
            contents |= dict(zip(uris, chosen.tolist(), strict=True))
            splits.append(split_of(name, uris))
        return splits, contents

    return deal


@pytest.mark.parametrize("seed", range(4))
def test_leaks_are_those_of_a_comparison_of_all_with_all(shuffled, seed):
    (train, valid, test), contents = shuffled(seed)
    splits = [valid, train, test]
    facts = check_images(splits, num_threads=1)

    def seen(split):
        return {contents[sample.image_uri] for sample in split.samples}

    def without(split, *others):
        taken = set().union(*map(seen, others))
        return [s for s in split.samples if contents[s.image_uri] not in taken]

    kept, found = without_leaks(splits, facts)
    assert [split.split for split in kept] == ["valid", "train", "test"]
    assert list(kept[0].samples) == without(valid, test)
    assert list(kept[1].samples) == without(train, valid, test)
    assert kept[2] == test
    assert len(found) == sum(len(s.samples) for s in splits) - sum(len(s.samples) for s in kept)
    assert found
    for leak in found:
        assert contents[leak.image_uri] == contents[leak.other_uri]
        assert ("train", "valid", "test").index(leak.split) < ("train", "valid", "test").index(
            leak.other_split
        )
    copies = repeats(splits, facts)
    assert [copies[s.split] for s in splits] == [12 - len(seen(split)) for split in splits]


def test_one_file_in_two_splits_leaks(put):
    uri, other = put("a.png", png(noise(0))), put("b.png", png(noise(1)))
    splits = [split_of("train", [uri, other]), split_of("valid", [uri])]
    facts = check_images(splits, num_threads=1)
    kept, (leak,) = without_leaks(splits, facts)
    assert [s.image_uri for s in kept[0].samples] == [other]
    assert str(leak) == f"{uri} of train is also in valid: the same file"


def test_a_split_that_leaks_altogether_is_refused(put):
    uri = put("a.png", png(noise(0)))
    splits = [split_of("train", [uri]), split_of("test", [uri])]
    facts = check_images(splits, num_threads=1)
    with pytest.raises(UsageError, match=r"drawn: every image of split 'train' is also in a split"):
        without_leaks(splits, facts)


def test_a_split_that_holds_nothing_leaks_nothing(put):
    """All rows of test were refused by the reader: that is told as a problem, not as a leak."""
    train = split_of("train", [put("a.png", png(noise(0)))])
    test = split_of("test", [], problems=["t.csv, line 2: what?"])
    facts = check_images([train, test], num_threads=1)
    assert without_leaks([train, test], facts) == ([train, test], [])


def test_all_that_is_wrong_is_listed_and_what_is_refused_comes_first(put):
    good, copy = put("good.png", png(noise(0))), put("copy.png", png(noise(0)))
    twice, gone = put("twice.png", png(noise(1))), good.replace("good", "gone")
    empty, empty_too = put("empty.png", b""), put("empty-too.png", b"")
    tested = put("tested.png", png(noise(1)))
    row = "file:///labels.csv, line 3: unknown age '5'"
    splits = [
        split_of(
            "train",
            [good, copy, twice, twice, gone, empty],
            [{"smiling": 1, "bald": 0}, {"smiling": 0, "bald": 0}, *([{"smiling": 1}] * 4)],
            [row],
        ),
        split_of("valid", [empty_too], problems=[row]),
        split_of("test", [tested]),
    ]
    found = problems(splits, check_images(splits, num_threads=2))
    assert [(one.kind, one.text) for one in found] == [
        (LABEL, row),
        ("missing", f"{gone} of train: No such file or directory"),
        ("unreadable", f"{empty} of train: not a supported image: empty"),
        ("unreadable", f"{empty_too} of valid: not a supported image: empty"),
        (LISTED_TWICE, f"{twice} is listed 2 times in train"),
        (CONFLICT, f"{good} = {copy} of train: smiling"),
        (LEAK, f"{twice} of train is also in test: {tested}"),
    ]
    assert [one.is_refused for one in found] == [True] * 4 + [False] * 3


def test_copies_with_equal_or_other_labels_do_not_conflict(put):
    uris = [put(f"{i}.png", png(noise(0))) for i in range(3)]
    split = split_of("train", uris, [{"smiling": 1}, {"smiling": 1, "bald": 0}, {"bald": 0}])
    assert problems([split], check_images([split], num_threads=1)) == ()


def test_sound_data_has_no_problem(put):
    splits = [
        split_of(name, [put(f"{name}.png", png(noise(i)))])
        for i, name in enumerate(("train", "valid", "test"))
    ]
    facts = check_images(splits, num_threads=1)
    assert problems(splits, facts) == ()
    assert leaks(splits, facts) == []
    assert without_leaks(splits, facts) == (splits, [])


# What is said of it


def test_refusal_lists_twenty_problems_and_counts_the_rest():
    found = [Problem(Status.MISSING, f"file:///{i}.jpg of train: gone") for i in range(25)]
    with pytest.raises(UsageError) as caught:
        refuse_problems([*found, Problem(LEAK, "x")], remedy="mend them")
    first, *lines = str(caught.value).split("\n  ")
    assert first == "25 problems in the labelled data: mend them"
    assert lines == [*(f"missing: file:///{i}.jpg of train: gone" for i in range(20)), "and 5 more"]


def test_refusal_of_one_problem_is_singular():
    with pytest.raises(UsageError, match=r"^1 problem in the labelled data: mend it\n  label: a$"):
        refuse_problems([Problem(LABEL, "a")], remedy="mend it")


def test_copies_alone_are_not_refused():
    refuse_problems([Problem(kind, "a") for kind in (LEAK, CONFLICT, LISTED_TWICE)], remedy="")


def test_digest_has_a_line_a_kind_with_its_first_few():
    found = [Problem(LEAK, f"leak {i}") for i in range(5)] + [Problem(CONFLICT, "a")]
    assert digest(found) == [
        "5 x leak: leak 0; leak 1; leak 2; and 2 more",
        "1 x conflicting_labels: a",
    ]
    assert digest([]) == []
