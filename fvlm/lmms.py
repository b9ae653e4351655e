"""A saved model as lmms-eval sees it: `--model fvlm --model_args pretrained=FOLDER`. Needs lmms-eval.

Registered by the entry point `lmms_eval.models` of this package (see `registration.py`)."""

import itertools
from pathlib import Path

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from transformers import AutoModel

from fvlm.ask import choose_run, lettered

PASSED_ON = ("max_new_tokens", "num_beams", "do_sample", "temperature", "top_p")
MAX_NEW_TOKENS = 64


class FoveatedLmms(lmms):
    """A model that lmms-eval asks: loglikelihoods of answers, and texts.

    pretrained: a run's folder, a saved model's, or a hub id. likelihood: where a question comes with lettered
    options the answer is the letter of the likeliest of them, as a model that was never taught to name
    letters can choose all the same; False: whatever it writes."""

    def __init__(self, pretrained: str, likelihood: bool = True, device: str | None = None, **others):
        """others: what lmms-eval gives every model, such as `batch_size`; clips are asked one at a time."""
        super().__init__()
        self.likelihood = likelihood
        if (Path(pretrained) / "model" / "config.json").exists():
            model = choose_run(pretrained).model
        else:
            model = AutoModel.from_pretrained(pretrained, use_safetensors=True, trust_remote_code=False)
        self.model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """The mean loss of each answer, in nats per token, and whether it is what the model would write.

        lmms-eval's multiple choice takes the least of these numbers, so they are losses. Version 0.7.3 makes
        text of everything but a `GenerationResult`, of a bare pair too."""
        found = []
        for _, group in itertools.groupby(requests, lambda request: (request.args[0], request.args[3:6])):
            same = [request.args for request in group]
            context, _, visual, *where = same[0]
            texts = [self._document(*where, answer) if callable(answer) else answer for _, answer, *_ in same]
            texts = [text.strip() for text in texts]
            losses, greedy = self.model.score(self._video(visual, *where), context.strip() or None, texts)
            found += [GenerationResult(pair) for pair in zip(losses.tolist(), greedy)]
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A text for each question, cut before any of the strings that are to end it."""
        texts = []
        for context, settings, visual, *where in (request.args for request in requests):
            video, (question, options) = self._video(visual, *where), lettered(context)
            if self.likelihood and options:
                chosen = self.model.choose(video, question or None, list(options.values()))
                texts.append(list(options)[chosen])
                continue
            wanted = {name: settings[name] for name in PASSED_ON if settings.get(name) is not None}
            if not wanted.get("do_sample"):
                wanted = {
                    name: value for name, value in wanted.items() if name not in ("temperature", "top_p")
                }
            wanted = {"max_new_tokens": MAX_NEW_TOKENS} | wanted
            text = self.model.answer(video, context.strip() or None, **wanted)
            ends = settings.get("until") or []
            for end in [ends] if isinstance(ends, str) else ends:
                text = text.split(end)[0]
            texts.append(text)
        return texts

    def generate_until_multi_round(self, requests):
        raise NotImplementedError("a model of ours answers one question about a clip; it has no rounds")

    def _document(self, number: int, task: str, split: str, read):
        return read(self.task_dict[task][split][number])

    def _video(self, visual, *where):
        """What the processor reads: the path of a video, or its pictures."""
        shown = self._document(*where, visual)
        return shown[0] if len(shown) == 1 and isinstance(shown[0], str) else list(shown)
