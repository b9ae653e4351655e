"""Makes the tiny LLMs' tokenizer: byte-level BPE, so that any text passes, with every word of `shapes` one
token.

    python -m fvlm.data.tokenizer        writes fvlm/data/tiny_tokenizer.json again

Run it when the world gets new words (a test says so), and expect older tiny models to stop fitting.
"""

import re
from pathlib import Path

from fvlm.weights import TINY_TOKENIZER, TINY_VOCABULARY


def words(clips: int = 3000) -> set[str]:
    """Every word of the world's captions, questions and answers, with its leading space where it has one."""
    from fvlm.data.shapes import ShapesWorld

    world, found = ShapesWorld(), set()
    for index in range(clips):
        scene = world.scene(index)
        texts = [scene.caption(), *(part for q, a, _ in scene.questions.values() for part in (q, a, f" {a}"))]
        for text in texts:
            found.update(re.findall(r" ?\w+|[^\w\s]", text))
    return found


def build(vocabulary: int = TINY_VOCABULARY):
    """A `tokenizers.Tokenizer` with at most `vocabulary` entries."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(words()), trainer)
    return tokenizer


if __name__ == "__main__":
    tokenizer = build()
    Path(TINY_TOKENIZER).write_text(tokenizer.to_str(pretty=False))
    print(f"{TINY_TOKENIZER}: {tokenizer.get_vocab_size()} entries")
