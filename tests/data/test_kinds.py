"""The kinds of samples besides video: several pictures to compare, and texts alone."""

import io
import json

import pandas as pd
import pytest
from conftest import tiny
from PIL import Image

from fvlm import ConfigError
from fvlm.data import open_dataset
from fvlm.data.prepare import Settings, prepare, process, verify
from fvlm.data.sources import open_source
from fvlm.data.video import decode_jpegs


def picture(colour) -> bytes:

    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "PNG")
    return file.getvalue()


def test_pictures_to_compare_are_shown_equally_long(tmp_path):
    """A film's frames are all shown and the last one again; pictures to compare share the frames."""

    files = []
    for number, colour in enumerate(["red", "green", "blue"]):
        (tmp_path / f"{number}.png").write_bytes(picture(colour))
        files.append(f"{number}.png")
    rows = [dict(images=files, caption="three"), dict(images=files[:2], caption="two")]
    pd.DataFrame([*rows, dict(images=files[0], caption="one")]).to_json(
        tmp_path / "sets.jsonl", orient="records", lines=True
    )
    found = {}
    for kind in ("several:", ""):
        source = f"{kind}{tmp_path / 'sets.jsonl'}"
        outcomes = [process(record, Settings(source, frames=8, size=28)) for record in open_source(source)]
        found[kind] = [
            [decode_jpegs([jpeg]).mean((0, 2, 3)).argmax() for jpeg in o.row["frames"]]
            for o in outcomes
            if o.row
        ]
        reasons = [o.reason for o in outcomes if not o.row]
        assert reasons == (["one picture"] if kind else [])
    assert found["several:"] == [[0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert found[""][0] == [0, 1, 2, 2, 2, 2, 2, 2]


def test_texts_alone_are_prepared_without_frames_and_none_is_taken_for_another(tmp_path):
    texts = [f"text number {i}" for i in range(60)]
    lines = [json.dumps(dict(text=text)) for text in [*texts, texts[0], ""]]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    source = f"text:{tmp_path / 'corpus.jsonl'}"
    manifest = prepare(Settings(source, frames=4, size=28), tmp_path / "set")
    assert manifest["clips"] == 60 and manifest["skipped"] == {"duplicate": 1, "no caption": 1}
    assert manifest["text_only"] and verify(tmp_path / "set") == []
    for frames in (4, 16):  # it fits any number of frames
        data = open_dataset(tiny(dataset=str(tmp_path / "set"), frames=frames), "train")
        assert not data[0].shows and data[0].caption in texts and data[0].frames.shape == (0, 3, 112, 112)
    (tmp_path / "asked.jsonl").write_text(json.dumps(dict(question="Where?", answer="Here.")))
    (record,) = open_source(f"text:{tmp_path / 'asked.jsonl'}")
    assert (record.question, record.answer, record.bad) == ("Where?", "Here.", None)
    with pytest.raises(ConfigError, match="no such file"):
        next(open_source("text:nowhere.csv"))


def test_conversations_are_one_text_without_the_places_of_pictures(tmp_path):
    rows = [
        dict(
            conversations=[
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": "Red."},
            ]
        ),
        dict(conversations=[dict(role="user", content="Hi"), dict(role="assistant", content="Hello.")]),
        dict(conversations=[dict(user="A <video> b?", assistant="Yes.", source="x")]),
    ]
    pd.DataFrame(rows).to_json(tmp_path / "talk.jsonl", orient="records", lines=True)
    records = list(open_source(f"text:{tmp_path / 'talk.jsonl'}"))
    assert [record.caption for record in records] == ["What is it?\nRed.", "Hi\nHello.", "A b?\nYes."]
    assert all(record.captions == (record.caption,) or not record.captions for record in records)


def test_a_column_within_columns_within_columns_is_found(tmp_path):
    row = dict(json=dict(content=dict(description="deep", other=1)), name="flat")
    (tmp_path / "deep.jsonl").write_text(json.dumps(row))
    source = f"text:{tmp_path / 'deep.jsonl'}"
    assert [r.caption for r in open_source(source, "json.content.description")] == ["deep"]
    with pytest.raises(ConfigError, match=r"json\.content\.description"):
        next(open_source(source, "json.content.nothing"))
