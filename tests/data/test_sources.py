"""Tables, captions and folders as people have them: each gives the clips and captions that were meant, or
says which row it could not read and why."""

import io
import json
import shutil
import tarfile
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny, write_video

from fvlm import ConfigError
from fvlm.data import Clip, Collator, PreparedDataset
from fvlm.data.prepare import RENAMED, Settings, prepare, process, split_of, verify
from fvlm.data.sources import SEVERAL_CAPTIONS, open_source
from fvlm.data.tables import NO_UTF8
from fvlm.data.video import encode_jpeg
from fvlm.weights import load_tokenizer

TEXTS = ["A man, a plan.", "Zwölf Hühner; gackernd", 'She says "hello".']


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Three videos: v0.mp4, v1.mp4, v2.mp4."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(3):
        write_video(folder / f"v{i}.mp4", count=12, seed=i)
    return folder


def read(spec, **options) -> list:
    return list(open_source(str(spec), **options))


def told(records) -> dict[str, str]:
    return {record.clip_id: record.caption for record in records if record.bad is None}


def bad(records) -> dict[str, str]:
    return {record.where: f"{record.bad.reason}: {record.bad.detail}" for record in records if record.bad}


def prepared(records, folder, **settings) -> dict:
    """Records prepared in this process: the decoding is not what is tried here."""
    from fvlm.data.prepare import Shards

    folder.mkdir(exist_ok=True)
    shards = Shards.open(folder, Settings("test", **dict(frames=2, size=28) | settings), overwrite=False)
    for number, record in enumerate(records):
        shards.add(process(replace(record, number=number), shards.settings))
    shards.flush()
    manifest = shards.manifest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def stored(folder) -> dict[str, dict]:
    datasets = [PreparedDataset(folder, split) for split in ("train", "validation")]
    return {row["clip_id"]: row for d in datasets for i in range(len(d)) if (row := d.row(i))}


def tar(path: Path, members: dict[str, bytes], mode="w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


# ── CSV and its relatives ────────────────────────────────────────────────────────────────────────


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_table_in_any_encoding_and_with_any_separator_gives_the_same(
    videos, tmp_path, separator, encoding, ending
):
    lines = [
        ("file_name", "caption"),
        *((f"{videos}/v{i}.mp4", quoted(text)) for i, text in enumerate(TEXTS)),
    ]
    (tmp_path / "a.csv").write_bytes(ending.join(separator.join(line) for line in lines).encode(encoding))
    records = read(tmp_path / "a.csv")
    assert [record.caption for record in records] == TEXTS and not bad(records)
    assert {record.notes for record in records} == {(NO_UTF8,) if encoding == "cp1252" else ()}


def test_an_unquoted_comma_or_an_open_quote_costs_its_row_alone_which_is_named(videos, tmp_path):
    rows = [
        "file_name,caption",
        "v0.mp4,A man, a plan",
        "v1.mp4,Fine",
        'v0.mp4,"never closed',
        'v2.mp4,"Quoted, and\nin two lines"',
        'v0.mp4,"open',
        'v1.mp4,closed by another"',
        "v2.mp4,The end",
        'v0.mp4,"open to the end',
    ]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    shutil.copytree(videos, tmp_path, dirs_exist_ok=True)
    records = read(tmp_path / "a.csv")
    good = [record.caption for record in records if record.bad is None]
    assert [text for text in good if text != 'closed by another"'] == [
        "Fine",
        "Quoted, and\nin two lines",
        "The end",
    ]
    faults = list(bad(records).values())
    assert "A man, a plan" in faults[0] and "needs quotes" in faults[0]
    assert "never closed" in faults[1] and any("open to the end" in fault for fault in faults)
    assert sum("quote" in fault for fault in faults) >= 4


@pytest.mark.parametrize("value", ["NaN", "true", "null", '{"en": "x"}', "3", "[]", '""', "[1, 2]"])
def test_what_is_no_text_is_no_caption(videos, tmp_path, value):
    lines = [f'{{"file_name": "v0.mp4", "caption": {value}}}', '{"file_name": "v1.mp4", "caption": "good"}']
    shutil.copytree(videos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    manifest = prepared(read(tmp_path / "a.jsonl"), tmp_path / "out")
    assert manifest["clips"] == 1 and manifest["skipped"] == {"no caption": 1}
    assert manifest["skipped_clips"][0]["where"] == "a.jsonl, row 1"


def test_missing_values_of_a_csv_are_no_caption_either(videos, tmp_path):
    (tmp_path / "a.csv").write_text(f"video,caption\n{videos}/v0.mp4,NaN\n{videos}/v1.mp4,None of them\n")
    records = read(tmp_path / "a.csv")
    assert list(told(records).values()) == ["None of them"]


# ── Several captions ─────────────────────────────────────────────────────────────────────────────

SIX = [f"text {i}" for i in range(6)]


@pytest.fixture(scope="module")
def several(videos, tmp_path_factory) -> Path:
    """Lists of captions: as JSON Lines, Parquet and CSV have them."""
    import pandas as pd

    folder = shutil.copytree(videos, tmp_path_factory.mktemp("several") / "x")
    rows = [dict(file_name=f"v{i}.mp4", captions=[f"{t} of {i}" for t in SIX]) for i in range(3)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame(rows).to_parquet(folder / "a.parquet")
    pd.DataFrame(rows).to_csv(folder / "a.csv", index=False)
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv"])
def test_of_several_captions_one_is_drawn_or_all_are_clips_or_the_first_is_taken(several, tmp_path, name):
    how = {how: read(several / name, captions=how) for how in SEVERAL_CAPTIONS}
    assert told(how["first"]) == {f"v{i}": f"text 0 of {i}" for i in range(3)}
    assert len(how["all"]) == 18 and told(how["all"])["v1#3"] == "text 2 of 1"
    assert [len(record.captions) for record in how["draw"]] == [6, 6, 6]
    for way, records in how.items():
        manifest = prepared(records, tmp_path / way, captions=way)
        assert manifest["settings"]["captions"] == way and manifest["skipped"] == {}
        assert manifest["notes"] == {SEVERAL_CAPTIONS[way]: len(records)}
        assert verify(tmp_path / way) == []
    assert len(stored(tmp_path / "all")) == 18
    for i in range(3):
        assert len({split_of(f"v{i}"), *(split_of(f"v{i}#{n}") for n in range(2, 7))}) == 1


def test_a_caption_is_drawn_for_each_position_the_same_at_every_reading(several, tmp_path):
    prepared(read(several / "a.jsonl"), tmp_path)
    split = max(("train", "validation"), key=lambda split: len(PreparedDataset(tmp_path, split)))
    config = tiny(dataset=str(tmp_path), steps=1)
    from fvlm.data.prepared import open_prepared

    data, again = (open_prepared(config.dataset, split, 2, 28, seed=0) for _ in range(2))
    drawn = [data[p].caption for p in range(60)]
    assert drawn == [again[p].caption for p in range(60)] == [data.told(p).caption for p in range(60)]
    assert len({text[:6] for text in drawn}) == 6, "each is drawn in its turn"
    other = open_prepared(config.dataset, split, 2, 28, seed=1)
    assert drawn != [other[p].caption for p in range(60)]


def test_captions_in_rows_of_their_own_are_clips_that_share_a_split(videos, tmp_path):
    lines = [f"{videos}/v{i}.mp4,{text} of {i}" for i in range(3) for text in SIX]
    (tmp_path / "a.csv").write_text("\n".join(["video,caption", *lines, lines[0]]))
    manifest = prepared(read(tmp_path / "a.csv"), tmp_path / "out")
    assert manifest["clips"] == 18 and manifest["skipped"] == {"duplicate": 1}, (
        "the same frames and the same text"
    )
    rows = stored(tmp_path / "out")
    assert {row["caption"] for row in rows.values()} == {f"{text} of {i}" for i in range(3) for text in SIX}
    splits = {}
    for clip_id, row in rows.items():
        splits.setdefault(tuple(row["frames"]), set()).add(split_of(clip_id))
    assert len(splits) == 3 and all(len(found) == 1 for found in splits.values())
    assert verify(tmp_path / "out") == []


def test_a_special_token_s_text_in_a_caption_stays_text():
    tokenizer = load_tokenizer("tiny")
    clip = Clip(np.zeros((1, 3, 4, 4), np.uint8), "a <|end|> b", "x")
    labels = Collator(tokenizer, "caption")([clip]).labels[0].tolist()
    assert labels.count(tokenizer.eos_token_id) == 1 and labels[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(labels[:-1]) == "a <|end|> b"


# ── Cuts ─────────────────────────────────────────────────────────────────────────────────────────


def test_segments_of_one_file_are_clips_each_and_share_a_split(tmp_path):
    write_video(tmp_path / "talk.mp4", count=24)
    cuts = [(0, 0.5), (0.5, 1), (1, 2), (1.5, "")]
    rows = [f"talk.mp4,talk,{a},{b},part {a}" for a, b in cuts]
    (tmp_path / "a.csv").write_text("\n".join(["file_name,videoid,start,end,caption", *rows]))
    segments = {"talk@0-0.5", "talk@0.5-1", "talk@1-2", "talk@1.5-"}
    assert set(told(read(tmp_path / "a.csv"))) == segments
    assert prepared(read(tmp_path / "a.csv"), tmp_path / "out")["clips"] == 4
    assert len({split_of(clip_id) for clip_id in segments}) == 1
    members = {}
    for i, (a, b) in enumerate(cuts[:3]):
        members |= {f"{i}.mp4": (tmp_path / "talk.mp4").read_bytes()}
        members |= {
            f"{i}.json": json.dumps(dict(caption=f"part {a}", start=a, end=b, videoid="talk")).encode()
        }
    tar(tmp_path / "a.tar", members)
    assert prepared(read(tmp_path / "a.tar"), tmp_path / "out2")["clips"] == 3
    one, other = stored(tmp_path / "out"), stored(tmp_path / "out2")
    assert set(other) == segments - {"talk@1.5-"} and all(
        other[k]["frames"] == one[k]["frames"] for k in other
    )


@pytest.mark.parametrize(
    "cut, words",
    [
        (dict(start=float("inf")), "expected seconds"),
        (dict(start="soon"), "expected seconds"),
        (dict(start=-1), "expected seconds"),
        (dict(start=2, end=1), "it ends at 1 s"),
        (dict(start=float("nan"), end=float("inf")), ""),
        (dict(end=1e300), ""),
        (dict(start=10**400), "expected seconds"),
    ],
)
def test_times_that_are_none_are_said(videos, tmp_path, cut, words):
    shutil.copytree(videos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "a.jsonl").write_text(json.dumps(dict(file_name="v0.mp4", caption="x") | cut))
    (record,) = read(tmp_path / "a.jsonl")
    assert (words in record.bad.detail) if words else record.bad is None
    if not words:
        assert process(record, Settings("test", frames=2, size=28)).row


# ── Names ────────────────────────────────────────────────────────────────────────────────────────


def test_names_that_meet_lose_nothing(videos, tmp_path):
    """The same members in three tars, an .mp4 beside a .mov, two folders of a hub data set."""
    for i in range(3):
        content = (videos / f"v{i}.mp4").read_bytes()
        tar(tmp_path / f"{i}.tar", {"0001.mp4": content, "0001.txt": f"tar {i}".encode()})
    manifest = prepared(read(tmp_path / "*.tar"), tmp_path / "out")
    assert manifest["clips"] == 3 and manifest["notes"] == {RENAMED: 2}
    assert {row["caption"] for row in stored(tmp_path / "out").values()} == {"tar 0", "tar 1", "tar 2"}

    root = tmp_path / "both"
    root.mkdir()
    shutil.copy(videos / "v0.mp4", root / "v0.mp4")
    write_video(root / "v0.mov", seed=7)
    (root / "metadata.csv").write_text("file_name,caption\nv0.mp4,one\nv0.mov,two\n")
    assert prepared(read(root), tmp_path / "out2")["clips"] == 2

    (tmp_path / "hub").mkdir()
    from datasets import Dataset, Features, Value
    from datasets import Video as VideoFeature

    rows = [
        dict(video=dict(bytes=(videos / f"v{i}.mp4").read_bytes(), path=f"{part}/0001.mp4"), caption=part)
        for i, part in enumerate("ab")
    ]
    features = Features(video=VideoFeature(decode=False), caption=Value("string"))
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "hub/train.parquet")
    assert set(told(read(tmp_path / "hub"))) == {"a/0001", "b/0001"}


@pytest.mark.parametrize(
    "named, there",
    [
        ("sub\\a.mp4", "sub/a.mp4"),
        ("a", "a.mp4"),
        ("sub/a", "sub/a.MP4"),
        ("a.mp4", "a.MP4"),
        ("A.MOV", "a.mov"),
        (unicodedata.normalize("NFC", "é/ü.mp4"), unicodedata.normalize("NFD", "é/ü.mp4")),
        (unicodedata.normalize("NFD", "ü.mp4"), unicodedata.normalize("NFC", "ü.mp4")),
    ],
)
def test_a_file_is_found_however_a_table_spells_it(videos, tmp_path, named, there):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    shutil.copy(videos / "v0.mp4", path)
    (tmp_path / "metadata.jsonl").write_text(json.dumps(dict(file_name=named, caption="x")))
    (record,) = read(tmp_path)
    assert record.bad is None and Path(record.media.file).samefile(path)


def test_a_name_that_could_be_two_files_is_said(videos, tmp_path):
    for name in ("a.mp4", "a.mkv"):
        shutil.copy(videos / "v0.mp4", tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,caption\na,x\nb,y\n")
    assert list(bad(read(tmp_path)).values()) == [
        "unreadable: a: could be a.mkv or a.mp4",
        "unreadable: b: no such file",
    ]


def test_a_linked_video_is_read_and_a_name_that_leaves_the_folder_is_not(videos, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/v0.mp4").symlink_to(videos / "v0.mp4")
    (tmp_path / "v9.mp4").write_bytes(b"x")
    (tmp_path / "set/metadata.csv").write_text("file_name,caption\nv0.mp4,x\n../v9.mp4,y\n")
    records = read(tmp_path / "set")
    assert told(records) == {"v0": "x"} and "outside the folder" in bad(records)["metadata.csv, row 2"]


# ── Folders ──────────────────────────────────────────────────────────────────────────────────────


def test_folders_named_train_and_test_keep_their_split(videos, tmp_path):
    for split, names in (("train", ("v0", "v1")), ("test", ("v2",))):
        (tmp_path / "set" / split).mkdir(parents=True)
        for name in names:
            shutil.copy(videos / f"{name}.mp4", tmp_path / "set" / split)
        rows = "".join(f"{name}.mp4,text of {name}\n" for name in names)
        (tmp_path / "set" / split / "metadata.csv").write_text("file_name,caption\n" + rows)
    manifest = prepared(read(tmp_path / "set"), tmp_path / "out")
    assert manifest["splits"] == dict(train=2, validation=1) and manifest["own_split"]
    validation = PreparedDataset(tmp_path / "out", "validation")
    assert validation[0].caption == "text of v2" and verify(tmp_path / "out") == []


def test_captions_beside_videos_in_class_folders_and_in_compressed_tars(videos, tmp_path, monkeypatch):
    root = tmp_path / "set"
    for i, part in enumerate(("playing_guitar", "surfing")):
        (root / part).mkdir(parents=True)
        shutil.copy(videos / f"v{i}.mp4", root / part / f"v{i}.MP4")
        (root / part / f"v{i}.MP4").with_suffix(".txt").write_bytes(f"Nr. {i}, schön".encode("cp1252"))
    shutil.copy(videos / "v2.mp4", root)
    (root / "v2.json").write_text("\ufeff" + json.dumps(dict(caption=["one", "two"], start=0.25)))
    (root / "._v2.mp4").write_bytes(b"macOS")
    records = read(root)
    expected = {"playing_guitar/v0": "Nr. 0, schön", "surfing/v1": "Nr. 1, schön", "v2@0.25-": "one"}
    assert told(records) == expected and not bad(records)
    monkeypatch.chdir(tmp_path)
    assert told(read("set")) == expected, "a relative folder"
    by_class = told(read(root, caption="folder"))
    assert by_class["playing_guitar/v0"] == "playing guitar" and by_class["surfing/v1"] == "surfing"

    members = {f"{i}.mp4": (videos / f"v{i}.mp4").read_bytes() for i in range(3)}
    texts = {f"{i}.txt": f"text {i}".encode() for i in range(3)}
    together = dict(sorted((members | texts).items()))
    for name, mode in (("a.tar.gz", "w:gz"), ("b.tgz", "w:gz"), ("c.TAR", "w")):
        found = read(tar(tmp_path / name, together, mode))
        assert told(found) == {str(i): f"text {i}" for i in range(3)}, name


# ── Tars ─────────────────────────────────────────────────────────────────────────────────────────


def test_what_macos_puts_into_a_tar_and_json_that_is_odd_cost_no_other_clip(videos, tmp_path):
    content = (videos / "v0.mp4").read_bytes()
    jsons = {
        "a": b"\xef\xbb\xbf" + json.dumps(dict(caption="with a BOM")).encode(),
        "b": b"null",
        "c": b"[1]",
        "d": json.dumps(dict(caption="plain")).encode(),
        "e": b'{"title": "no caption"}',
    }
    members = {}
    for key, data in jsons.items():
        members |= {f"{key}.mp4": content, f"._{key}.mp4": b"x", f"{key}.json": data, f"._{key}.json": b"x"}
    members |= {"c0.mp4": content, "c0.caption.txt": b"in a file of its own"}
    records = read(tar(tmp_path / "a.tar", members))
    assert told(records) == {"a": "with a BOM", "d": "plain", "c0": "in a file of its own"}
    assert len(bad(records)) == 3 and any("title" in fault for fault in bad(records).values())


def test_of_an_unsorted_tar_it_is_said_what_was_found_and_how_it_must_be(videos, tmp_path):
    members = {f"{i}.mp4": (videos / f"v{i}.mp4").read_bytes() for i in range(3)}
    members |= {f"{i}.txt": b"text" for i in range(3)}
    records = read(tar(tmp_path / "a.tar", members))
    assert not told(records)
    faults = [record.bad.detail for record in records]
    assert "there is .mp4 alone" in faults[0] and "follow each other" in faults[0]
    assert "its .txt stands apart" in faults[3]


# ── Parquet and datasets ─────────────────────────────────────────────────────────────────────────


def parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_parquet_holds_videos_as_bytes_as_dicts_and_as_pictures_in_any_column(videos, tmp_path):
    content = [(videos / f"v{i}.mp4").read_bytes() for i in range(3)]
    jpegs = [encode_jpeg(np.full((20, 20, 3), 40 * t, np.uint8), 95) for t in range(4)]
    forms = {
        "bytes": [dict(video=c, caption="x") for c in content],
        "dict": [dict(video=dict(bytes=c, path="a.mp4"), caption="x") for c in content],
        "nested": [dict(clip=dict(video=c, about="y"), meta=dict(caption="x")) for c in content],
        "renamed": [dict(film=c, alt="x") for c in content],
        "pictures": [dict(frames=[dict(bytes=j, path=None) for j in jpegs], caption="x")] * 3,
        "paths": [
            dict(video=dict(bytes=None, path=str(videos / f"v{i}.mp4")), caption="x") for i in range(3)
        ],
    }
    columns = dict(nested=dict(), renamed=dict(video="film", caption="alt"))
    plain = None
    for name, rows in forms.items():
        records = read(parquet(tmp_path / f"{name}.Parquet", rows), **columns.get(name, {}))
        assert [record.caption for record in records] == ["x"] * 3 and not bad(records), name
        frames = [process(record, Settings("test", frames=2, size=28)).row["frames"] for record in records]
        if name != "pictures":
            plain = plain or frames
            assert frames == plain, name


def test_what_save_to_disk_left_and_a_second_video_or_audio_column(videos, tmp_path, monkeypatch):
    from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Value
    from datasets import Video as VideoFeature

    rows = [
        dict(
            video=dict(bytes=(videos / f"v{i}.mp4").read_bytes(), path=f"v{i}.mp4"),
            rear=dict(bytes=b"no video at all", path="rear.mp4"),
            sound=dict(bytes=b"no sound at all", path="a.wav"),
            caption=i % 2,
        )
        for i in range(3)
    ]
    features = Features(
        video=VideoFeature(decode=False),
        rear=VideoFeature(decode=False),
        sound=dict(bytes=Value("binary"), path=Value("string")),
        caption=ClassLabel(names=["surfing", "playing_guitar"]),
    )
    data = Dataset.from_list(rows, features=features).cast_column("sound", Audio(decode=False))
    data.save_to_disk(tmp_path / "one")
    DatasetDict(train=data, other=data.select([0])).save_to_disk(tmp_path / "two")
    decoding = Features(data.features | dict(video=VideoFeature(), rear=VideoFeature(), sound=Audio()))
    (tmp_path / "three").mkdir()
    data.cast(decoding).to_parquet(tmp_path / "three/train.parquet")
    expected = {"v0": "surfing", "v1": "playing guitar", "v2": "surfing"}
    for name in ("one", "two", "three"):
        assert told(read(tmp_path / name)) == expected, name
    assert set(told(read(tmp_path / "two", split="other"))) == {"v0"}
    with pytest.raises(ConfigError, match="there are train, other"):
        read(tmp_path / "two", split="test")


# ── A preparation that is done ───────────────────────────────────────────────────────────────────


def test_a_finished_preparation_says_that_its_source_was_not_read(videos, tmp_path, capsys):
    from fvlm.cli import main

    root = shutil.copytree(videos, tmp_path / "set")
    (root / "metadata.csv").write_text("file_name,caption\nv0.mp4,old\nv1.mp4,x\n")
    command = [
        "prepare",
        str(root),
        "--out",
        str(tmp_path / "out"),
        "--frames",
        "2",
        "--size",
        "28",
        "--workers",
        "1",
    ]
    assert main(command) == 0 and "already" not in capsys.readouterr().out
    (root / "metadata.csv").write_text("file_name,caption\nv0.mp4,new\nv2.mp4,x\n")
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "prepared already" in out and "was not read" in out and "--overwrite" in out
    assert main([*command, "--overwrite"]) == 0
    assert {row["caption"] for row in stored(tmp_path / "out").values()} == {"new", "x"}


def test_a_dataset_that_was_prepared_before_captions_were_a_setting_is_still_the_same(videos, tmp_path):
    (tmp_path / "a.csv").write_text(f"video,caption\n{videos}/v0.mp4,x\n{videos}/v1.mp4,y\n")
    settings = Settings(str(tmp_path / "a.csv"), frames=2, size=28)
    manifest = prepare(settings, tmp_path / "out", workers=1)
    older = json.loads((tmp_path / "out/manifest.json").read_text())
    del older["settings"]["captions"], older["notes"], older["noted_clips"], older["own_split"]
    (tmp_path / "out/manifest.json").write_text(json.dumps(older))
    assert prepare(settings, tmp_path / "out")["fingerprint"] == manifest["fingerprint"]
    assert verify(tmp_path / "out") == []
