"""A saved model as transformers, peft and Trainer see it; their own code throughout."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import python, steering, tiny, write_video
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    Trainer,
    TrainingArguments,
)
from transformers.utils import ModelOutput

from fvlm import ConfigError, RunConfig, build_model, load_model
from fvlm.architectures import ARCHITECTURES
from fvlm.data import Collator, open_dataset
from fvlm.data.clips import plain_ids
from fvlm.huggingface.processor import FoveatedProcessor
from fvlm.models import model_class
from fvlm.training.loop import accumulate_gradient
from fvlm.training.optimizer import make_optimizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder per architecture: model and processor, saved."""
    folder = tmp_path_factory.mktemp("saved")
    for arch in ARCHITECTURES:
        model = steered(arch)
        model.save_pretrained(folder / arch)
        model.processor.save_pretrained(folder / arch)
    return folder


def steered(arch="foveated", **settings):
    model = build_model(tiny(arch, frames=4, **settings), pretrained=False)
    return steering(model) if model.modes_differ else model


PROMPTS = dict(
    prompt_ids=torch.tensor([[7, 8, 9], [7, 0, 0]]),
    prompt_mask=torch.tensor([[True, True, True], [True, False, False]]),
    frame_mask=torch.tensor([[True] * 4, [True, True, True, False]]),
)


# ── Saved and loaded ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_every_architecture_is_the_same_in_a_fresh_process_that_knows_only_transformers(saved, clips):
    """Same logits bit for bit, same text, through Auto classes."""
    torch.save(clips[0], saved / "frames.pt")
    code = (
        "import sys, torch, fvlm\n"
        "from transformers import AutoModel, AutoProcessor\n"
        "for arch in sys.argv[2:]:\n"
        "    model = AutoModel.from_pretrained(f'{sys.argv[1]}/{arch}')\n"
        "    processor = AutoProcessor.from_pretrained(f'{sys.argv[1]}/{arch}')\n"
        "    frames = torch.load(sys.argv[1] + '/frames.pt')\n"
        "    text = processor.batch_decode(model.generate(frames, max_new_tokens=6))\n"
        "    torch.save((type(model).__name__, model(frames).logits, text), f'{sys.argv[1]}/{arch}.pt')\n"
    )
    python("-c", code, saved, *ARCHITECTURES)
    for arch in ARCHITECTURES:
        model = steered(arch)
        name, logits, text = torch.load(saved / f"{arch}.pt")
        assert name == model_class(arch).__name__
        assert torch.equal(logits, model(clips[0]).logits)
        assert text == model.processor.batch_decode(model.generate(clips[0], max_new_tokens=6))


@pytest.mark.slow
def test_auto_classes_know_a_model_once_fvlm_is_imported_whatever_comes_first(saved):
    for lines in ("import fvlm", "import transformers.models.auto.processing_auto, fvlm"):
        code = f"{lines}\nfrom transformers import AutoProcessor, AutoConfig\n" + (
            f"print(type(AutoProcessor.from_pretrained({str(saved / 'static')!r})).__name__, "
            f"AutoConfig.from_pretrained({str(saved / 'static')!r}).arch)"
        )
        assert python("-c", code).stdout.split() == ["FoveatedProcessor", "static"]


def test_importing_fvlm_imports_neither_torch_nor_transformers():
    code = "import fvlm, sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    assert python("-c", code).stdout.strip() == "[]"


def test_a_configuration_alone_makes_its_own_architecture():
    for arch in ARCHITECTURES:
        config = build_model(tiny(arch), pretrained=False).config
        for auto in (AutoModel, AutoModelForImageTextToText):
            assert type(auto.from_config(config)) is model_class(arch)


def test_missing_foreign_and_misshapen_weights_are_errors(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / "foveated/model.safetensors")
    config = AutoConfig.from_pretrained(saved / "foveated")
    for wrong, told in (
        (weights | {"more": torch.zeros(2)}, "unexpected: more"),
        ({name: w for name, w in weights.items() if name != "first_query"}, "missing: first_query"),
        (weights | {"first_query": torch.zeros(3)}, "mismatched: .*first_query"),
    ):
        config.save_pretrained(tmp_path)
        save_file(wrong, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=told):
            load_model(tmp_path)
    with pytest.raises(ConfigError, match="BaselineVLM"):
        model_class("baseline").from_pretrained(saved / "foveated")
    with pytest.raises(OSError):
        AutoModel.from_pretrained(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.alone
def test_the_real_cell_comes_back_within_three_seconds(tmp_path):
    config = RunConfig.from_cell("S-S_8f_fov")
    build_model(config, pretrained=False).save_pretrained(tmp_path)
    start = time.process_time()  # whatever else the machine does
    model = load_model(tmp_path)
    assert time.process_time() - start < 3
    assert model(torch.zeros(1, 2, 3, 224, 224)).logits.isfinite().all()


@pytest.mark.parametrize(
    "settings", [dict(dtype=torch.float16), dict(dtype=torch.bfloat16, device_map="auto")]
)
def test_half_precision_and_a_device_map_change_little(saved, clips, settings):
    whole = load_model(saved / "foveated")(clips[0]).logits
    model = AutoModel.from_pretrained(saved / "foveated", **settings)
    assert model.dtype is settings["dtype"]
    assert (model(clips[0]).logits.float() - whole).abs().max() < 0.1
    assert model.generate(clips[0], max_new_tokens=2).shape == (2, 2)


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_attention_implementations_agree(saved, clips, kind):
    plain = load_model(saved / "baseline")
    model = AutoModel.from_pretrained(saved / "baseline", attn_implementation=kind)
    assert {part.config._attn_implementation for part in (model, model.llm, model.vision)} == {kind}
    assert torch.allclose(model(clips[0]).logits, plain(clips[0]).logits, atol=1e-4)
    model.set_attn_implementation("eager")
    out = model.generate(clips[0], max_new_tokens=1, output_attentions=True, return_dict_in_generate=True)
    assert out.attentions[0][0].shape == (2, 3, 66, 66), "prefix: <fine>, 4 x 16 visual tokens, <end>"


# ── Trained by others' code ──────────────────────────────────────────────────────────────────────


def test_outputs_are_model_outputs(model, clips):
    out = model(*clips)
    assert isinstance(out, ModelOutput) and out[0] is out.loss and out["logits"] is out.logits
    assert torch.equal(model(*clips, return_dict=False)[0], out.loss)


def test_new_tokens_can_be_added(model, clips):
    before = model(clips[0]).logits
    model.resize_token_embeddings(600)
    assert (
        model.llm.lm_head.weight is model.get_input_embeddings().weight
        and model.config.llm_config.vocab_size == 600
    )
    assert torch.allclose(model(clips[0]).logits[..., :512], before, atol=1e-5)
    assert model(clips[0], labels=torch.tensor([[599], [598]])).loss.isfinite()


def trainer(model, folder, clips, **settings):
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=3,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    return Trainer(model, arguments, data_collator=model_processor(model).collate, train_dataset=clips)


def model_processor(model):
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).processor


def in_order(trained, clips):
    """The same clips in the order that is given."""
    from torch.utils.data import SequentialSampler

    trained._get_train_sampler = lambda *_: SequentialSampler(clips)
    return trained


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_s_loss_is_that_of_our_loop_on_the_same_batches(tmp_path, checkpointing):
    """Accumulated over micro-batches of texts of different lengths, where a mean of means would differ."""
    config = tiny(learning_rate=1e-3, warmup=0, schedule="constant", weight_decay=0.0, freeze_vision=False)
    data = open_dataset(config, "train")
    clips = [data[i] for i in range(12)]
    theirs, ours = (build_model(config, pretrained=False) for _ in range(2))
    optimizer = make_optimizer(ours, config)
    collate, losses = Collator(ours.processor.tokenizer, "caption"), []
    for step in range(3):
        losses.append(accumulate_gradient(ours.train(), collate(clips[4 * step : 4 * step + 4]), config, 2))
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    trained = in_order(trainer(theirs, tmp_path, clips, gradient_checkpointing=checkpointing), clips)
    trained.optimizer = make_optimizer(theirs, config)
    trained.train()
    logged = [row["loss"] for row in trained.state.log_history if "loss" in row]
    assert logged == pytest.approx(losses, abs=2e-4)
    assert losses[2] < losses[0]
    assert trained.evaluate(clips[:4])["eval_loss"] > 0


def test_lora_trains_saves_and_comes_back(tmp_path, clips):
    from peft import LoraConfig, PeftModel, get_peft_model

    model = steered()
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=r"llm\..*(q_proj|v_proj)", modules_to_save=["to_query"]
    )
    tuned = get_peft_model(model, lora)
    trained = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert trained and all("lora" in name or "to_query" in name for name in trained)
    data = open_dataset(tiny(frames=4), "train")
    told = trainer(tuned, tmp_path, [data[i] for i in range(12)])
    told.train()
    text = tuned.generate(frames=clips[0], max_new_tokens=4)
    tuned.save_pretrained(tmp_path / "lora")
    again = PeftModel.from_pretrained(steered(), tmp_path / "lora")
    assert torch.equal(again.generate(frames=clips[0], max_new_tokens=4), text)
    assert torch.allclose(again(frames=clips[0]).logits, tuned.eval()(frames=clips[0]).logits, atol=1e-5)
    assert not torch.allclose(again(frames=clips[0]).logits, steered()(clips[0]).logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["foveated", "baseline"])
def test_the_parallel_forward_compiles_without_a_graph_break(arch, clips):
    torch._dynamo.reset()
    model = steered(arch)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for given in ({}, PROMPTS):
        assert torch.allclose(compiled(*clips, **given).loss, model(*clips, **given).loss, atol=1e-5)


# ── generate ─────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def naive(model, frames, count, **given):
    """The most likely text, the whole sequence read again for every token: no cache, no padding."""
    ids = torch.empty(1, 0, dtype=torch.long)
    for _ in range(count):
        labels = torch.cat([ids, torch.zeros(1, 1, dtype=torch.long)], dim=1)  # the last one only asks
        logits = model(frames, labels=labels, mode="autoregressive", **given).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        if ids[0, -1] == 0:
            break
    return ids[0].tolist()


@pytest.mark.parametrize("arch", ["foveated", "foveated4", "baseline", "blind"])
def test_greedy_text_is_that_of_a_loop_without_cache_whatever_is_padded(arch, clips):
    frames, model = clips[0], steered(arch)
    together = model.generate(frames, **PROMPTS, max_new_tokens=5)
    cuts = ((frames[:1], PROMPTS["prompt_ids"][:1]), (frames[1:, :3], PROMPTS["prompt_ids"][1:, :1]))
    for row, (seen, prompt) in zip(together.tolist(), cuts):
        alone = naive(model, seen, 5, prompt_ids=prompt)
        assert row[: len(alone)] == alone and not any(row[len(alone) :])


def test_generate_is_transformers_own(model, clips):
    frames = clips[0]
    beams = model.generate(
        frames, num_beams=3, max_new_tokens=4, return_dict_in_generate=True, output_scores=True
    )
    assert beams.sequences.shape == (2, 4) and beams.sequences_scores.shape == (2,)
    greedy = model.generate(frames, max_new_tokens=4, return_dict_in_generate=True, output_scores=True)
    likely = model.compute_transition_scores(greedy.sequences, greedy.scores, normalize_logits=True).mean(1)
    assert (beams.sequences_scores >= likely - 1e-5).all(), "beams find no less likely a text"
    torch.manual_seed(0)
    several = model.generate(frames[:1], do_sample=True, num_return_sequences=5, max_new_tokens=4)
    assert several.shape == (5, 4) and len({tuple(row) for row in several.tolist()}) > 1

    class Two(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            return torch.full((len(ids),), ids.size(1) >= 2)

    assert model.generate(frames, stopping_criteria=StoppingCriteriaList([Two()])).size(1) == 2
    streamer = TextIteratorStreamer(model.processor.tokenizer)
    ids = model.generate(frames[:1], streamer=streamer, max_new_tokens=4)
    assert "".join(streamer) == model.processor.decode(ids[0])
    with pytest.raises(ValueError, match="max_new_token"):
        model.generate(frames, max_new_token=3)


def test_a_text_ends_and_what_follows_is_padding(model, clips):
    ids = model.generate(clips[0], max_new_tokens=6)
    stop = ids[0, 0].item()
    ended = model.generate(clips[0], max_new_tokens=6, eos_token_id=[stop], pad_token_id=0)
    assert ended[0, 0] == stop and not ended[0, 1:].any()


# ── The processor ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def processor():
    return build_model(tiny(frames=4), pretrained=False).processor


def test_one_clip_is_the_same_however_it_is_given(processor, tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (9, 112, 112, 3), dtype=np.uint8)
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:02d}.png")
    chosen = torch.from_numpy(frames[[1, 3, 5, 7]]).permute(0, 3, 1, 2)  # middles of four equal parts
    for clip in (
        frames,
        list(frames),
        [Image.fromarray(frame) for frame in frames],
        torch.from_numpy(frames),
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        torch.from_numpy(frames).permute(0, 3, 1, 2) / 255,
        folder,
        str(folder),
    ):
        assert torch.equal(processor(clip)["frames"], chosen[None])
    several = processor([frames, folder, [Image.fromarray(frame) for frame in frames]])
    assert torch.equal(several["frames"], chosen.expand(3, -1, -1, -1, -1))
    assert processor(folder / "00.png")["frames"].shape == (1, 4, 3, 112, 112)


def test_a_video_is_sampled_as_in_training(processor, tmp_path):
    from fvlm.data.video import read_video

    path = write_video(tmp_path / "a.mp4", count=40)
    read = torch.from_numpy(read_video(str(path), 4, 112)[0]).permute(0, 3, 1, 2)
    assert processor.letterbox and not torch.equal(processor(path)["frames"][0], read), "of drawn squares"
    processor = FoveatedProcessor(processor.tokenizer, 4, 112)  # of a run on prepared videos
    assert torch.equal(processor(path)["frames"][0], read)
    part = processor(path, start=1, end=2)["frames"][0]
    assert not torch.equal(part, read)


def test_texts_become_prompts_and_labels(processor):
    frames = np.zeros((2, 2, 112, 112, 3), np.uint8)
    inputs = processor(frames, text=["Which shape is red?", "What?"], labels="square")
    assert inputs["prompt_mask"].sum(1).tolist() == [
        len(processor.tokenizer(t)["input_ids"]) for t in ("Which shape is red?", "What?")
    ]
    assert (inputs["labels"][:, -1] == processor.tokenizer.eos_token_id).all()
    assert build_model(tiny(frames=4), pretrained=False)(**inputs).loss.isfinite()


def test_a_processor_is_saved_with_its_sampling(processor, tmp_path):
    processor.frames, processor.task = 6, "question"
    processor.save_pretrained(tmp_path)
    for again in (FoveatedProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert (again.frames, again.image_size, again.task) == (6, 112, "question")
        assert again.tokenizer("red circle")["input_ids"] == processor.tokenizer("red circle")["input_ids"]


@pytest.mark.parametrize(
    "clip, told",
    [
        ("nowhere.mp4", "not there"),
        (Path(__file__), "unreadable"),
        (np.zeros((3, 4)), "shape"),
        (np.full((2, 4, 4, 3), 2.5), "0 to 1"),
        ([], "without a frame|clips"),
    ],
)
def test_what_can_t_be_read_is_a_user_s_mistake(processor, clip, told):
    with pytest.raises(ConfigError, match=told):
        processor(clip)


def test_a_question_that_spells_a_special_token_is_text_all_the_same():
    """As in training: processor, session and collator read it alike."""
    model = build_model(tiny(task="question"), pretrained=False)
    tokenizer = model.processor.tokenizer
    question = f"Is {tokenizer.eos_token} red?"
    (ids,) = model.processor(torch.zeros(2, 3, 112, 112, dtype=torch.uint8), question)["prompt_ids"].tolist()
    assert tokenizer.eos_token_id not in ids and ids == plain_ids(tokenizer, question)
    asked = model.stream(question).context.mask.size(1)
    assert asked == len(ids) + 1, "the question, and <fine>"
