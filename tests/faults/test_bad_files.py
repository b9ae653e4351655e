"""Files of every kind that a user gives, damaged or of another kind: one message, or one skipped record."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fvlm import ConfigError, RunConfig, build_model
from fvlm.data.prepare import Settings, process
from fvlm.data.sources import open_source
from fvlm.data.video import encode_jpeg
from fvlm.models import load_model
from fvlm.models.build import processor_of
from fvlm.models.inputs import as_pixels

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))
SETTINGS = Settings("t", frames=2, size=28)
tried = settings(
    max_examples=30 * TIMES,
    deadline=None,
    derandomize=TIMES == 1,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**63),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", "nan", "a.jpg", "../a.jpg", "/etc/passwd", "\x00", "a" * 300, "[[[", "['a', 'b']", "\ud800"]
    ),
)
value = st.recursive(
    leaf, lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(max_size=4), i, max_size=3)
)
columns = st.sampled_from(
    ["video", "caption", "question", "answer", "start", "end", "clip_id", "id", "other"]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    (folder / "a.jpg").write_bytes(encode_jpeg(np.zeros((20, 20, 3), np.uint8), 90))
    return folder


TRIED = []  # one for each file of a user


@pytest.fixture(autouse=True)
def counted(count):
    TRIED.clear()
    yield
    if TRIED:
        count("bad inputs", len(TRIED))


def outcomes(spec) -> list:
    """What becomes of each record: a row, or a reason. No exception but a ConfigError."""
    TRIED.append(1)
    try:
        return [process(record, SETTINGS) for record in open_source(str(spec))]
    except ConfigError as error:
        assert 0 < len(str(error)) < 5000
        return []


def json_text(content) -> str:
    return json.dumps(content)


@tried
@given(
    st.lists(st.dictionaries(columns, value, max_size=6) | value, max_size=4),
    st.sampled_from(["jsonl", "json"]),
)
def test_rows_of_any_content_are_clips_or_skipped(folder, rows, kind):
    rows = [dict(video="a.jpg", caption="the first"), *rows]
    text = "\n".join(map(json_text, rows)) if kind == "jsonl" else json_text(rows)
    (folder / f"list.{kind}").write_text(text)
    found = outcomes(folder / f"list.{kind}")
    assert len(found) == len(rows) and found[0].row is not None
    assert all(bool(one.reason) == (one.row is None) for one in found)


@pytest.mark.parametrize("odd", [{}, dict(z=1), [1], 7, None, dict(caption=7), dict(text=[[]])], ids=str)
@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_row_that_lacks_the_columns_costs_itself_alone_wherever_it_stands(folder, odd, kind):
    good = dict(video="a.jpg", caption="x")
    for rows in ([odd, good, good], [good, odd, good]):
        text = "\n".join(map(json_text, rows)) if kind == "jsonl" else json_text(rows)
        (folder / f"odd.{kind}").write_text(text)
        for spec in (folder / f"odd.{kind}", f"text:{folder / f'odd.{kind}'}"):
            found = outcomes(spec)
            assert [bool(one.reason) for one in found] == [row is odd for row in rows]
    (folder / f"odd.{kind}").write_text(json_text([odd]) if kind == "json" else json_text(odd))
    assert not outcomes(folder / f"odd.{kind}") or not isinstance(odd, dict), "none has them: that is said"


def test_a_label_without_a_name_costs_its_row(folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Value

    schema = Features(caption=ClassLabel(names=["a", "b"]), image=Value("binary")).arrow_schema
    rows = dict(caption=[0, 9, 1], image=[(folder / "a.jpg").read_bytes()] * 3)
    pq.write_table(pa.table(rows, schema=schema), tmp_path / "train.parquet")
    assert [one.reason for one in outcomes(f"hub:{tmp_path}")] == ["", "unreadable", ""]


@tried
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_tables_of_any_bytes_are_read_or_refused(folder, content):
    for kind in ("csv", "tsv", "jsonl", "json", "parquet"):
        (folder / f"any.{kind}").write_bytes(content)
        outcomes(folder / f"any.{kind}")


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"caption": ' + "9" * 5000 + "}"),
        *("[1, 2]", "7", '"x"', "null"),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "beside"])
def test_json_that_is_nested_or_long_beyond_reason_or_no_object_costs_its_record(
    folder, tmp_path, text, kind
):
    if kind == "beside":
        shutil.copy(folder / "a.jpg", tmp_path / "a.jpg")
        (tmp_path / "a.json").write_text(text)
        (one,) = outcomes(tmp_path)
        assert one.reason
    else:
        (tmp_path / f"a.{kind}").write_text(text)
        assert all(one.reason for one in outcomes(tmp_path / f"a.{kind}"))


@pytest.mark.parametrize(
    "name",
    ["a\x00.jpg", "b" * 256 + ".jpg", "loop.jpg", "loop/a.jpg", ".", "..", "/", "\ud800.jpg", "fifo.jpg"],
)
def test_a_name_that_no_file_can_have_costs_its_row(folder, tmp_path, name):
    shutil.copy(folder / "a.jpg", tmp_path / "a.jpg")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    rows = [dict(file_name="a.jpg", caption="x"), dict(file_name=name, caption="y")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good, bad = outcomes(tmp_path)
    assert good.row is not None and bad.reason in ("unreadable", "outside the folder")


def test_folders_that_link_to_each_other_are_read_once(folder, tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "a.jpg", tmp_path / name / f"{name}.jpg")
        (tmp_path / name / f"{name}.txt").write_text(f"a text {name}")
    for name, to in (("x", "y"), ("y", "x"), ("x", "."), ("y", "..")):
        (tmp_path / name / f"to{len(to)}{to[0]}").symlink_to(
            tmp_path / name / to if "." in to else tmp_path / to
        )
    found = outcomes(tmp_path)
    assert sorted(Path(one.clip_id).name for one in found) == ["x", "y"]


def test_a_text_with_half_a_character_is_skipped_and_said(folder, tmp_path):
    shutil.copy(folder / "a.jpg", tmp_path / "a.jpg")
    rows = [
        dict(file_name="a.jpg", caption=c, clip_id=i)
        for c, i in (("x\ud800y", "1"), ("fine \U0001f600", "2"), ("x", "\udfff"))
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second, third = outcomes(tmp_path)
    assert first.reason == "no caption" and "no character" in first.detail
    assert second.row["caption"] == "fine \U0001f600" and third.reason == "unreadable"


# ── Saved models and folders of weights ──────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    config = tiny()
    build_model(config, pretrained=False).save_pretrained(folder)
    processor_of(config).save_pretrained(folder)
    return folder


def zero_tail(path, dice):
    size = path.stat().st_size
    start = dice.randrange(size)
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(bytes(size - start))


def cut(path, dice):
    os.truncate(path, dice.randrange(path.stat().st_size))


def swap(path, dice):
    other = dice.choice(sorted(p for p in path.parent.iterdir() if p != path))
    shutil.copyfile(other, path)


def nest(path, dice):
    path.write_text("[" * 50_000)


def loads(folder):
    """Load a model and its processor; what is loaded is what was saved, or a ConfigError says why not."""
    model = load_model(folder)
    assert model.processor is not None
    return model


@pytest.mark.parametrize("damage", [zero_tail, cut, swap, nest, os.remove])
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_saved_model_is_one_message_or_the_same_model(saved, tmp_path, name, damage, count):
    count("damaged files", TIMES)
    whole = {key: value.clone() for key, value in load_model(saved).state_dict().items()}
    for number in range(TIMES):
        folder = shutil.copytree(saved, tmp_path / str(number))
        damage(folder / name, random.Random(number)) if damage is not os.remove else os.remove(folder / name)
        try:
            found = loads(folder).state_dict()
        except ConfigError as error:
            assert 0 < len(str(error)) < 3000
        else:
            same = all(torch.equal(found[key], whole[key]) for key in whole)
            assert same or name == "model.safetensors", "weights carry no checksum here: `Source` has it"


@pytest.mark.parametrize(
    "content",
    [
        dict(arch="nowhere"),
        dict(arch=7),
        dict(arch=None),
        {},
        [],
        dict(arch="foveated", llm_config=dict(model_type="nowhere")),
        dict(arch="foveated", llm_config=7),
        dict(arch="foveated", llm_config={}),
        dict(model_type="bert"),
    ],
)
def test_a_configuration_of_another_kind_is_one_message(saved, tmp_path, content):
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="config|arch"):
        load_model(folder)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> dict[str, Path]:
    """Folders of a DINOv2 and of a Llama, with random weights."""
    from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("backbones")
    vision = Dinov2Config(
        hidden_size=48, num_attention_heads=2, num_hidden_layers=2, image_size=56, patch_size=14
    )
    llm = LlamaConfig(
        vocab_size=512, hidden_size=48, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    Dinov2Model(vision).save_pretrained(root / "vision")
    LlamaForCausalLM(llm).save_pretrained(root / "llm")
    return dict(vision=root / "vision", llm=root / "llm")


def config_of(folders, **others) -> RunConfig:
    return tiny(**{name: str(path) for name, path in folders.items()} | others)


def test_backbones_of_one_s_own_are_read(backbones):
    model, sources = build_model(config_of(backbones)), None
    assert model.llm.config.hidden_size == 48 and sources is None


@pytest.mark.parametrize("kind", ["vision", "llm"])
@pytest.mark.parametrize(
    "damage", ["other kind", "a weight is missing", "unknown", "no json", "cut", "remote code"]
)
def test_a_backbone_that_is_not_what_it_should_be_is_one_message(backbones, tmp_path, kind, damage):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(backbones[kind], tmp_path / kind)
    about = json.loads((folder / "config.json").read_text())
    if damage == "other kind":
        shutil.copytree(backbones["vision" if kind == "llm" else "llm"], folder, dirs_exist_ok=True)
    elif damage == "a weight is missing":
        weights = load_file(folder / "model.safetensors")
        weights.pop(next(name for name in weights if "norm" in name))
        save_file(weights, folder / "model.safetensors", metadata=dict(format="pt"))
    elif damage == "unknown":
        (folder / "config.json").write_text(json.dumps(about | dict(model_type="nowhere")))
    elif damage == "no json":
        (folder / "config.json").write_text("{" * 3000)
    elif damage == "cut":
        os.truncate(folder / "model.safetensors", 200)
    else:
        auto = dict(AutoConfig="evil.Config", AutoModel="evil.Model", AutoModelForCausalLM="evil.Model")
        (folder / "config.json").write_text(json.dumps(about | dict(model_type="evil", auto_map=auto)))
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')\n")
    with pytest.raises(ConfigError) as told:
        build_model(config_of(backbones | {kind: folder}))
    assert str(folder) in str(told.value) and len(str(told.value)) < 2000
    assert not (tmp_path / "was here").exists()


# ── Frames and masks ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def models() -> dict:
    return {arch: build_model(tiny(arch), pretrained=False).eval() for arch in ("foveated", "baseline")}


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.int8])
def test_integer_frames_are_pixels_whatever_their_width(dtype, models):
    pixels = torch.randint(0, 128, (2, 3, 4, 4))
    assert torch.equal(as_pixels(pixels.to(dtype)), pixels.to(torch.uint8))
    model = models["foveated"]
    frames, labels = torch.randint(0, 128, (1, 2, 3, 28, 28)), torch.tensor([[1, 2, 3]])
    assert torch.equal(model(frames.to(dtype), labels).loss, model(frames.to(torch.uint8), labels).loss)


@pytest.mark.parametrize(
    "frames",
    [
        torch.full((1, 2, 3, 28, 28), 300),
        torch.full((1, 2, 3, 28, 28), -1),
        torch.rand(1, 2, 3, 28, 28) * 255,
        torch.rand(1, 2, 3, 28, 28).mul(255).half(),
        torch.ones(1, 2, 3, 28, 28, dtype=torch.bool),
    ],
    ids=["300", "-1", "floats to 255", "halves to 255", "bool"],
)
def test_frames_that_are_no_pixels_and_not_normalised_are_refused(frames, models):
    with pytest.raises(ValueError, match="frames of"):
        models["foveated"](frames, torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize("arch", ["foveated", "baseline"])
@pytest.mark.parametrize(
    "given",
    [
        dict(frame_mask=torch.ones(1, 1)),
        dict(frame_mask=torch.ones(2, 2)),
        dict(frame_mask=torch.ones(2)),
        dict(prompt_ids=torch.ones(1, 3, dtype=torch.long), prompt_mask=torch.ones(1, 2)),
        dict(prompt_ids=torch.ones(1, 3, dtype=torch.long), prompt_mask=torch.ones(1, 4)),
        dict(prompt_mask=torch.ones(1, 2)),
    ],
    ids=["frames short", "frames batch", "frames flat", "prompt short", "prompt long", "no prompt"],
)
def test_a_mask_of_another_shape_than_what_it_masks_is_refused(arch, given, models):
    frames = torch.randint(0, 255, (1, 2, 3, 28, 28), dtype=torch.uint8)
    with pytest.raises(ValueError, match="mask"):
        models[arch](frames, torch.tensor([[1, 2, 3]]), **given)


def test_a_parquet_table_with_a_damaged_part_costs_that_part(folder, tmp_path):
    import pyarrow.parquet as pq

    shutil.copy(folder / "a.jpg", tmp_path / "a.jpg")
    rows = [dict(video="a.jpg", caption=f"text {i}") for i in range(40)]
    path = tmp_path / "a.parquet"
    pd.DataFrame(rows).to_parquet(path, row_group_size=10, index=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    with open(path, "r+b") as file:
        file.seek(column.dictionary_page_offset or column.data_page_offset)
        file.write(b"\xff" * 40)
    found = outcomes(path)
    assert [one.row["caption"] for one in found if one.row] == [
        f"text {i}" for i in (*range(10), *range(20, 40))
    ]
    assert [one.reason for one in found if one.reason] == ["unreadable"]
