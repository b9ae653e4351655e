"""Nothing that a user types or gives ends in a traceback: one message that says what, where and what would be
valid. Inputs are made up by hypothesis, from grammars near what is valid. `FVLM_FAULTS=100` tries a hundred
times as many."""

import ast
import itertools
import os
import time
import warnings

import pytest
import yaml
from conftest import REPOSITORY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fvlm.cli import main
from fvlm.config import ConfigError, RunConfig
from fvlm.data.mix import mixes, read_mix
from fvlm.data.prepare import settings_from_notebook
from fvlm.data.sources import open_source
from fvlm.studies.grid import read_grid
from fvlm.studies.mix import read_design

TIMES = int(os.environ.get("FVLM_FAULTS", "1"))
FIELDS = sorted(RunConfig.__dataclass_fields__)

tried = settings(
    max_examples=150 if TIMES == 1 else 200 * TIMES,
    deadline=None,
    derandomize=TIMES == 1,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**31),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "nan", "inf", "1e400", "-1", "\x00", "\ud800", "../..", "a" * 300, "9" * 5000]),
)
nested = st.recursive(
    odd, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
valid_names = st.sampled_from([*FIELDS, "clip", "steer", "setps"])


TRIED = []  # one for each input


@pytest.fixture(autouse=True)
def counted(count):
    """All that went through `one_message`, hypothesis's examples among them."""
    TRIED.clear()
    yield
    if TRIED:
        count("bad inputs", len(TRIED))


def one_message(call):
    """What a call says is wrong, if anything: a ConfigError of reasonable length, and no other exception."""
    TRIED.append(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            call()
        except ConfigError as error:
            assert str(error).strip() and len(str(error)) < 5000
            return str(error)
    return None


@tried
@given(st.dictionaries(valid_names | st.text(max_size=8), nested, max_size=4))
def test_parameters_of_any_kind_are_taken_or_refused(values):
    one_message(lambda: RunConfig.from_dict(values | dict(device="cpu")))


@tried
@given(st.text(max_size=30) | st.from_regex(r"[A-Z0-9]{1,3}-[A-Z]_\d{1,6}f_[a-z0-9]{1,4}", fullmatch=True))
def test_names_of_cells_are_taken_or_refused(cell):
    one_message(lambda: RunConfig.from_cell(cell, device="cpu"))


blocks = st.fixed_dictionaries(
    {},
    optional=dict(
        pairs=nested | st.just(["T1-T"]),
        frames=nested | st.just([2]),
        archs=nested | st.just(["fov"]),
        seeds=nested | st.just([0, 1]),
        settings=nested | st.dictionaries(valid_names, odd, max_size=2),
        priority=odd,
        other=odd,
    ),
)
grids = st.fixed_dictionaries(
    {},
    optional=dict(
        study=odd | st.just("s"),
        seeds=nested | st.just([0]),
        settings=nested | st.dictionaries(valid_names, odd, max_size=2),
        pairs=nested | st.dictionaries(odd.filter(lambda x: x == x), nested, max_size=2),
        slurm=nested,
        cells=nested | st.lists(blocks, max_size=2),
    ),
)


@tried
@given(grids | nested)
def test_grid_files_of_any_content_are_taken_or_refused(tmp_path, content):
    path = tmp_path / "grid.yaml"
    path.write_bytes(yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))
    said = one_message(lambda: read_grid(path))
    assert said is None or "grid.yaml" in said


@tried
@given(st.binary(max_size=200))
def test_grid_files_of_any_bytes_are_refused(tmp_path, content):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    assert "grid.yaml" in one_message(lambda: read_grid(path))


BOMBS = {
    "lists": "a: &a [x, x, x, x, x, x, x, x]\n"
    + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]" for a, b in itertools.pairwise("abcdefghij")),
    "mappings": "a: &a {x: 1}\n"
    + "\n".join(
        f"{b}: &{b} {{{', '.join(f'{k}: *{a}' for k in 'qrstuvwx')}}}"
        for a, b in itertools.pairwise("abcdefghij")
    ),
    "merged": "a: &a {x: 1}\n"
    + "\n".join(
        f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 8)}]}}" for a, b in itertools.pairwise("abcdefghij")
    ),
    "keys": "a: &a [x, x, x, x, x, x, x, x]\n"
    + "\n".join(f"? &{b} [{', '.join([f'*{a}'] * 8)}]\n: y" for a, b in itertools.pairwise("abcdefghij")),
    "of itself": "a: &a [*a, *a]\n",
    "of itself, merged": "a: &a {<<: *a}\n",
    "long": f"a: [{'x,' * 21_000}]\n",
}
KINDS_OF_CARD = ("dataset card", "dataset's settings")
VALID = "study: s\ncells:\n  - {pairs: [T1-T], frames: [2], archs: [fov]}\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (VALID + "study: t\n", ["line 4", "'study' is given twice"]),
        (VALID + "settings: {steps: 3, steps: 4}\n", ["'steps' is given twice"]),
        (VALID + "settings: {seed: 3}\n", ["seeds are a list"]),
        (VALID + "settings: {study: t}\n", ["seeds are a list"]),
        (VALID + "pairs: {T1-T: null}\n", ["T1-T", "expected settings of a pair"]),
        (VALID + "pairs: {1: {steps: 3}}\n", ["expected settings of a pair"]),
        (VALID + f"settings: {{steps: 0x{'f' * 6000}}}\n", ["line 4", "6002 digits"]),
        (VALID.replace("[2]", f"[0x{'f' * 6000}]"), ["line 3", "6002 digits"]),
        (VALID + "settings: {1: 3}\n", ["unknown parameter 1"]),
        (VALID + "settings: {null: 3}\n", ["unknown parameter None"]),
        (VALID + "seeds: [4294967296]\n", ["seed = 4294967296", "at most"]),
        (VALID + "settings: {steps: 1e400}\n", ["steps", "whole number"]),
        *((VALID + bomb, ["grid.yaml", "line "]) for bomb in BOMBS.values()),
        (VALID.replace("cells:", "cells: &c") + "seeds: *c\n", ["grid.yaml"]),
        (VALID + f"seeds: {[*range(11_000)]}\n", ["11,000 cells", "at most 10,000"]),
        ("[" * 3000, ["nested too deeply"]),
        ("study: s\ncells: []\n" + "#" * 1_000_000, ["too long"]),
        (b"study: \xff\n", ["not UTF-8"]),
        ("? [a, b]\n: c\n", ["grid.yaml"]),
        ("study: " + "9" * 5000 + "\ncells: []\n", ["grid.yaml"]),
        ("study: 2001-99-99\ncells: []\n", ["grid.yaml"]),
    ],
)
def test_a_bad_grid_file_is_one_message_that_names_it(tmp_path, capsys, content, words):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["grid", str(path), "--list"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "grid.yaml" in said and len(said) < 3000
    assert all(word in said for word in words)


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("kind", ["grid", "mix", "mixes", "design", "dataset card", "dataset's settings"])
def test_no_yaml_stands_for_more_than_it_says(tmp_path, kind, bomb):
    """Whoever reads it: a few hundred bytes, spelled out, would fill any memory."""
    text = BOMBS[bomb]
    card = tmp_path / dict(zip(KINDS_OF_CARD, ("README.md", ".huggingface.yaml"))).get(kind, "x.yaml")
    card.write_text(f"---\n{text}\n---\n# A dataset\n" if card.suffix == ".md" else text)
    (tmp_path / "a.txt").write_text("a text")
    read = dict(
        grid=lambda: read_grid(card),
        mix=lambda: read_mix(str(card)),
        mixes=lambda: mixes(tmp_path),
        design=lambda: read_design(card),
    ).get(kind, lambda: list(open_source(f"hub:{tmp_path}")))
    begun = time.monotonic()
    said = one_message(read)
    assert said and card.name in said and "line " in said and time.monotonic() - begun < 10


def test_every_yaml_is_read_by_the_one_reader():
    """In the code itself, for whatever is added later."""
    for path in sorted((REPOSITORY / "fvlm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "yaml":
                reads = node.attr.startswith(
                    ("load", "safe_load", "full_load", "unsafe_load", "compose", "parse")
                )
                assert not reads or path.name == "files.py", f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "injected, words",
    [
        ("frames = 'many'", "frames = 'many': expected a whole number"),
        ("frames = 2.5", "expected a whole number"),
        ("frames = None", "expected a whole number"),
        ("clips = True", "expected a whole number"),
        ("clips = 0", "clips = 0: must be at least 1"),
        ("workers = 'x'", "workers = 'x': expected a whole number"),
        ("source = 3", "source = 3: expected a string"),
        ("folder = []", "folder = []: expected a string"),
        ("captions = {}", "captions = {}: expected a string"),
        ("frames = 10**12", "bytes, at most"),
        ("frames = 10**5000", "frames = a number of thousands of digits: expected a whole number"),
        ("frame = 8", "unknown parameter 'frame'"),
    ],
)
def test_parameters_of_the_notebook_that_prepares_are_one_message(injected, words):
    own = "# Parameters\nsource: str = 'shapes'\nfolder: str = 'auto'\nframes: int = 8\nclips: int = 9\n"
    namespace = {"In": [own, f"# Parameters\n{injected}"]}
    for cell in namespace["In"]:
        exec(cell, namespace)
    assert words in one_message(lambda: settings_from_notebook(namespace))


@pytest.mark.parametrize("absurd", [["--frames", "1000000000000"], ["--size", "1400000000"]])
def test_a_clip_that_no_memory_holds_is_one_message(tmp_path, absurd, capsys):
    assert main(["prepare", "shapes", "--clips", "3", *absurd, "--out", str(tmp_path / "set")]) == 2
    assert "a clip would have" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "nowhere.yaml", "a\x00b", "n" * 300, "."])
def test_a_grid_file_that_can_not_be_is_one_message(tmp_path, name, capsys):
    assert main(["grid", str(tmp_path / name), "--list"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["gaze", "--run", "RUN", "--out"],
        ["swap", "--run", "RUN", "--out"],
        ["bench", "train", "--cell", "T1-T_2f_fov", "--json"],
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("name", ["a_file/x.parquet", "a_folder", "n" * 300, "a\x00b", "/proc/x.parquet"])
def test_an_output_that_can_not_be_written_is_known_before_anything_is_computed(
    tmp_path, monkeypatch, capsys, arguments, name
):
    (tmp_path / "a_file").write_text("")
    (tmp_path / "a_folder").mkdir()
    run = tmp_path / "study" / "T1-T_2f_fov_seed0"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    monkeypatch.setattr("fvlm.training.results.Run.validation_clips", computed)
    monkeypatch.setattr("fvlm.bench.bench_train", computed)
    named = [str(run) if word == "RUN" else word for word in arguments]
    assert main([*named, str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --") and "can't be written" in said and len(said) < 1500


def computed(*_):
    raise AssertionError("it was computed first")
