import numpy as np
import pandas as pd
import pytest
from conftest import pixels

from fvlm.data import Clip, ShapesWorld
from fvlm.plots import question_guesses
from fvlm.plots.clips import clip_player


def test_a_clip_player_shows_every_frame_of_every_clip_with_its_boxes():
    clips = [ShapesWorld().clip(i) for i in range(5)]
    figure = clip_player(clips)
    assert len(figure.frames) == 8 and len(figure.data) == 5 and len(figure.layout.sliders[0].steps) == 8
    for t in (0, 7):
        for clip, image in zip(clips, figure.frames[t].data):
            shown, drawn = pixels(image), clip.frames[t].transpose(1, 2, 0)
            assert abs(shown - drawn).mean() < 12, "but for JPEG and boxes"
            x0, y0, x1, y1 = clip.boxes[t, 0]
            assert shown[y0, x0:x1].mean() > 200 and shown[y1 - 1, x0:x1].mean() > 200, "a white edge"


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script> <b>bold</b>", "", "象の群れが川を渡る " * 3, "very long " * 300]
)
def test_captions_show_as_text(text):
    figure = clip_player([Clip(np.zeros((2, 3, 56, 56), np.uint8), text, "x")])
    title = "".join(a.text for a in figure.layout.annotations)  # none for an empty text
    assert "<script" not in title and "<b>" not in title and title.count("<br>") <= 5
    assert (
        title.replace("<br>", " ").replace("&lt;", "<").replace("&gt;", ">").split()[:2] == text.split()[:2]
    )


def test_guesses_are_drawn_beside_chance():
    table = pd.DataFrame([dict(question="colour", chance=0.125, most_common=0.13, guesser=0.14)])
    bars = {bar.name: bar.y[0] for bar in question_guesses(table).data}
    assert bars == {"chance": 0.125, "most common": 0.13, "guesser": 0.14}
