import dataclasses
import itertools
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import REPOSITORY

from fvlm import cpu
from fvlm.architectures import ARCH_OF_SHORT
from fvlm.config import PAIRS, ConfigError, RunConfig
from fvlm.data import check_dataset
from fvlm.parameters import check_parameters, parameters_cell, run_config
from fvlm.studies.grid import read_grid
from fvlm.weights import vision_config


@pytest.mark.parametrize("pair", sorted(set(PAIRS.values())))
@pytest.mark.parametrize("arch", ARCH_OF_SHORT)
def test_cell_names_go_both_ways(pair, arch):
    cell = f"{pair}_64f_{arch}"
    config = RunConfig.from_cell(cell)
    assert config.cell == cell
    assert RunConfig.from_dict(config.to_dict()) == config


def test_pair_names_are_distinct():
    assert len(set(PAIRS.values())) == len(PAIRS)


def test_study_cells_mean_what_the_study_meant():
    expected = {
        "S-S": ("135m", "small"),
        "M-S": ("360m", "small"),
        "S-B": ("135m", "base"),
        "B-L": ("1.7b", "base"),
    }
    for pair, names in expected.items():
        config = RunConfig.from_cell(f"{pair}_8f_fov")
        assert (config.llm, config.vision) == names
        assert config.steps * config.effective_batch == 4480
        assert config.steps // config.eval_every == 20


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(llm="136m"), ["136m", "135m", "360m", "1.7b", "tiny"]),
        (dict(lmm="135m"), ["lmm", "did you mean llm", "learning_rate"]),
        (dict(arch="fovated"), ["fovated", "foveated", "baseline", "static", "meanpool", "blind"]),
        (dict(task="captions"), ["captions", "caption", "question"]),
        (dict(schedule="linear"), ["linear", "constant", "wsd", "cosine"]),
        (dict(decay=30), ["decay", "share"]),
        (dict(steps=0), ["steps", "at least 1"]),
        (dict(steps="many"), ["steps", "many", "whole number"]),
        (dict(steps=2.5), ["steps", "2.5", "whole number"]),
        (dict(steps="2.5"), ["steps", "2.5", "whole number"]),
        (dict(steps="1" * 5000), ["steps", "whole number"]),
        (dict(steps=10**5000), ["steps", "thousands of digits", "whole number"]),
        (dict(warmup=-(10**5000)), ["warmup", "whole number"]),
        (dict(learning_rate=10**5000), ["learning_rate", "thousands of digits"]),
        (dict(frames=10**12), ["frames", str(10**12), "at most"]),
        (dict(seed=2**32), ["seed", str(2**32), "at most"]),
        (dict(seed="inf"), ["seed", "inf", "whole number"]),
        (dict(seed="nan"), ["seed", "nan", "whole number"]),
        (dict(learning_rate=-1), ["learning_rate", "positive"]),
        (dict(learning_rate=float("nan")), ["learning_rate"]),
        (dict(freeze_llm="maybe"), ["freeze_llm", "maybe", "True or False"]),
        (dict(device="gpu"), ["gpu", "cuda"]),
        (dict(study="a/b"), ["a/b"]),
        (dict(out="a\0b"), ["out", "expected a string"]),
        (dict(dataset="half\ud800"), ["dataset", "expected a string"]),
        (dict(llm=["tiny"]), ["llm", "expected a string"]),
    ],
)
def test_mistakes_are_errors_that_name_what_is_valid(settings, words):
    with pytest.raises(ConfigError) as error:
        RunConfig.from_dict(settings)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("cell", ["S-S", "S-S_8_fov", "S-X_8f_fov", "S-S_8f_foo", "s-s_8f_fov", ""])
def test_unknown_cells_are_errors_that_show_the_grammar(cell):
    with pytest.raises(ConfigError, match=r"S-S_8f_fov.*B-L.*bas"):
        RunConfig.from_cell(cell)


def test_a_setting_may_not_contradict_the_cell():
    with pytest.raises(ConfigError, match="contradicts"):
        RunConfig.from_cell("S-S_8f_fov", frames=16)


def test_strings_as_papermill_passes_them_become_values():
    config = RunConfig(steps="20", learning_rate="1e-4", freeze_llm="true", max_grad_norm="2")
    assert (config.steps, config.learning_rate, config.freeze_llm, config.max_grad_norm) == (
        20,
        1e-4,
        True,
        2.0,
    )


def test_how_deep_the_vision_encoder_is_and_how_far_a_question_steers():
    assert [RunConfig(llm="tiny", vision=v).vision_layers for v in ("tiny", "small", "base")] == [4, 12, 12]
    assert (
        RunConfig(task="question").query_init_scale == 1.0
        and RunConfig(task="caption").query_init_scale == 0.1
    )
    assert vision_config(RunConfig(llm="tiny", vision_layers=6)).num_hidden_layers == 6
    with pytest.raises(ConfigError, match="small has 12"):
        vision_config(RunConfig(llm="tiny", vision="small", vision_layers=13))


def test_only_an_llm_from_scratch_has_its_input_scaled():
    assert RunConfig(llm="tiny2").scale_input and not RunConfig(llm="135m").scale_input
    assert not RunConfig(llm="tiny2", scale_input=False).scale_input
    with pytest.raises(ConfigError, match="scale_input = True: 360m has learned.*tiny1-tiny5"):
        RunConfig(llm="360m", scale_input=True)


@pytest.fixture
def measures_anew(monkeypatch, tmp_path):
    """A machine whose CPU has not been measured yet; returns what a new process on it does first."""
    monkeypatch.setenv("FVLM_CACHE", str(tmp_path))
    cpu.cpu_faster_in_bf16.cache_clear()
    yield cpu.cpu_faster_in_bf16.cache_clear
    cpu.cpu_faster_in_bf16.cache_clear()


@pytest.mark.parametrize(
    "can, bf16_seconds, precision",
    [
        ({"amx_bf16": True}, 0.2, "bf16"),
        ({"avx512_bf16": True}, 0.9, "bf16"),
        ({"avx512_bf16": True}, 2.0, "fp32"),  # has the instructions, and is slower with them
        ({"avx2": True}, 0.2, "fp32"),
    ],
)
def test_precision_is_the_one_that_the_cpu_is_faster_in(
    monkeypatch, measures_anew, can, bf16_seconds, precision
):
    turns = itertools.cycle([1, 5, 3])  # other processes come between
    seconds = {torch.float32: 1.0, torch.bfloat16: bf16_seconds}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: can)
    monkeypatch.setattr(cpu, "_product_seconds", lambda dtype: seconds[dtype] * next(turns))
    assert RunConfig(device="cpu").precision == precision
    assert RunConfig(device="cpu", precision="fp32").precision == "fp32"
    assert RunConfig(device="cuda").precision == "bf16"


def test_all_processes_on_a_machine_choose_the_same_precision(monkeypatch, measures_anew, tmp_path):
    """Those of one study would be trained in two precisions where the CPU is nearly as fast in either."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    seconds = {torch.float32: 1.0, torch.bfloat16: 0.9}
    monkeypatch.setattr(cpu, "_product_seconds", lambda dtype: seconds[dtype])
    assert RunConfig(device="cpu").precision == "bf16"
    seconds[torch.bfloat16] = 1.1
    measures_anew()
    assert RunConfig(device="cpu").precision == "bf16", "as was found first"

    (kept,) = tmp_path.glob("*.json")
    with monkeypatch.context() as upgraded:
        upgraded.setattr(torch, "__version__", "0.0")  # another torch, or CPU, is another question
        measures_anew()
        assert RunConfig(device="cpu").precision == "fp32"
    kept.write_text("{")  # damaged: measured again
    measures_anew()
    assert RunConfig(device="cpu").precision == "fp32"
    (tmp_path / "file").touch()  # no folder can be made there
    monkeypatch.setenv("FVLM_CACHE", str(tmp_path / "file" / "cache"))
    measures_anew()
    assert RunConfig(device="cpu").precision == "fp32"


def test_how_fast_a_cpu_multiplies_is_measured():
    large, small = (min(cpu._product_seconds(torch.float32, side) for _ in range(5)) for side in (1024, 128))
    assert large > 5 * small > 0, "512 times the work"


def test_a_vision_model_that_is_trained_has_no_precision_of_its_own():
    assert RunConfig(llm="tiny", precision="bf16_vision").freeze_vision
    with pytest.raises(ConfigError, match="bf16_vision.*valid with freeze_vision=True"):
        RunConfig(llm="135m", precision="bf16_vision")


@pytest.mark.parametrize(
    "own, seen", [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_waiting_threads_leave_the_cores_to_others_unless_told_otherwise(own, seen):
    environment = {
        k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    } | own
    code = "import fvlm, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(seen)


def test_a_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().steps = 3


def test_results_go_to_the_repository_whatever_the_working_directory(tmp_path, monkeypatch):
    before = RunConfig().folder
    monkeypatch.chdir(tmp_path)
    assert RunConfig().folder == before and before.is_absolute()


def test_the_parameters_cell_sets_every_field_once_to_its_default_and_describes_it():
    first, *rest = parameters_cell().splitlines()
    lines = [line for line in rest if not line.startswith("#")]
    namespace, plain = {}, {field.name: field.default for field in dataclasses.fields(RunConfig)}
    exec("\n".join(lines), namespace)
    names = [line.partition(":")[0] for line in lines]
    assert first == "# Parameters" and sorted(names) == sorted(plain)
    assert rest[0].startswith("# ") and rest[7].startswith("# "), "six that are changed first"
    assert names[:6] == ["llm", "frames", "arch", "dataset", "steps", "seed"]
    assert {name: namespace[name] for name in plain} == plain
    types = namespace["__annotations__"]
    assert (types["steps"], types["dataset"], types["learning_rate"], types["compile"]) == (
        int,
        str,
        float,
        bool,
    )
    helps = [line.partition("  # ")[2] for line in lines]
    assert len(set(helps)) == len(plain) and min(map(len, helps)) > 10


def test_notebook_parameters_with_a_typo_fail_and_right_ones_pass():
    own = "# Parameters\nllm: str = 'tiny'\nsteps: int = 3"
    injected = "# Parameters\nsteps = 5\n"
    namespace = dict(In=["", own, injected], llm="tiny", steps=5)
    assert run_config(namespace).steps == 5
    namespace = dict(In=["", own, "# Parameters\nstep = 5\n"], llm="tiny", steps=3, step=5)
    with pytest.raises(ConfigError, match="'step'.*steps"):
        run_config(namespace)


def test_params_has_one_file_per_cell_of_the_study_and_each_says_its_cell():
    files = {p.stem: yaml.safe_load(p.read_text()) for p in (REPOSITORY / "params").glob("?-?_*.yaml")}
    study = {
        f"{pair}_{frames}f_{arch}"
        for pair in ("S-S", "M-S", "S-B", "B-L")
        for frames in (8, 64)
        for arch in ("fov", "bas")
    }
    assert set(files) == study
    for cell, values in files.items():
        assert RunConfig.from_dict(values).cell == cell


@pytest.mark.parametrize("seed", [2**32 - 1, str(2**32 - 1), 3.0, "3e0", "3.0"])
def test_every_digit_of_a_whole_number_counts(seed):
    assert RunConfig(seed=seed, device="cpu").seed == int(float(seed))


def test_a_seed_beyond_what_a_float_holds_is_not_another_one():
    with pytest.raises(ConfigError, match=str(2**53 + 1)):
        RunConfig(seed=str(2**53 + 1), device="cpu")


def test_relative_paths_are_resolved_once_as_seen_from_here_or_else_from_the_repository(
    tmp_path, monkeypatch
):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = RunConfig(dataset="data/mine", out="results")
    mixture = RunConfig(dataset="data/mine:0.7,data/mine:0.3").dataset
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert config.dataset == str(tmp_path / "data/mine") and config.out == str(tmp_path / "results")
    assert RunConfig.from_dict(config.to_dict()) == config
    assert mixture == f"{tmp_path}/data/mine:0.7,{tmp_path}/data/mine:0.3"
    assert RunConfig(dataset="outputs/micro").dataset == str(REPOSITORY / "outputs/micro"), (
        "as from notebooks/"
    )
    assert RunConfig(dataset="shapes:objects=2-3").dataset == "shapes:objects=2-3"
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}/elsewhere/data/mine")) as error:
        check_dataset(RunConfig(dataset="data/mine").dataset)
    assert str(REPOSITORY) in str(error.value)


def test_a_grid_file_s_relative_folders_are_those_of_where_the_grid_was_started(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "grid.yaml").write_text(
        "study: x\nsettings: {dataset: data, out: results}\n"
        "cells: [{pairs: [T1-T], frames: [2], archs: [fov]}]\n"
    )
    monkeypatch.chdir(tmp_path)
    (cell,) = read_grid("grid.yaml").cells
    parameters = cell.job(1.0).parameters
    assert parameters["dataset"] == str(tmp_path / "data") and parameters["out"] == str(tmp_path / "results")


@pytest.mark.parametrize(
    "injected, words",
    [
        ("run = 'x'", "unknown parameter 'run' (did you mean runs?)"),
        ("clips = 'many'", "clips = 'many': expected a whole number"),
        ("clips = 2.5", "expected a whole number"),
        ("quick = 'yes'", "expected True or False"),
        ("runs = 3", "expected a string"),
        ("clips = 7", ""),
        ("runs = 'x'\nquick = True", ""),
    ],
)
def test_any_notebook_s_parameters_are_checked_as_papermill_does_not(injected, words):
    own = "# Parameters\nruns: str = 'auto'\nclips: int = 3\nquick: bool = False"
    namespace = {"In": [own, f"# Parameters\n{injected}"]}
    for cell in namespace["In"]:
        exec(cell, namespace)
    if words:
        with pytest.raises(ConfigError, match=re.escape(words)):
            check_parameters(namespace)
    else:
        check_parameters(namespace)
