"""A video that plays while a model watches it, and can be asked meanwhile. Needs ipywidgets and Plotly.

T frames, h x w patches.
"""

import html
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as ipw

from fvlm.config import ConfigError
from fvlm.data.clips import Clip
from fvlm.data.film import Shot
from fvlm.data.live import live_frames
from fvlm.plots.clips import image_bytes
from fvlm.plots.gaze import gaze_picture
from fvlm.plots.style import SCALE
from fvlm.plots.watching import joined
from fvlm.text import clock
from fvlm.training.results import Run
from fvlm.watching import Glimpse, watch
from fvlm.widgets.canvas import FrameView

SHOWN = 6  # lines of what was said, the newest first
KEPT = 8  # frames of the picture that a stored notebook keeps


class Watcher(ipw.VBox):
    """A run's model watches a video: `Watcher(run, "clip.mp4")` at the end of a cell shows it.

    Press play: each frame is seen once, in the video's own time or as fast as the model can, its gaze lies
    over it, and what the model says runs below. A question that is typed meanwhile is asked before the next
    frame, and steers every look from then on; an empty one has it describe again. From Python: `play`,
    `question`, and `step()`, which sees one frame. A stored notebook keeps a picture."""

    def __init__(
        self,
        run: Run,
        video: str | Path,
        question: str | None = None,
        window: int | None = 64,
        rate: float = 2.0,
        every: float = 2.0,
        max_new_tokens: int = 48,
        shots: Sequence[Shot] = (),
    ):
        """rate: frames a second of the video. every: seconds between what it says. shots: what is true of the
        video and when, which is then shown too. ConfigError for a model without queries, and on the first
        frame for a video that can't be read."""
        if not run.config.architecture.has_queries:
            raise ConfigError(f"{run.config.arch}: a model without queries has no gaze to be shown")
        self.session = run.model.stream(question, window)
        self.shots, self.rate, self.glimpses = list(shots), rate, []
        self._coming = watch(self.session, live_frames(video, rate), every, max_new_tokens)
        self._lock, self._over = threading.Lock(), False
        self._view = FrameView(widest=430)
        self.play = ipw.ToggleButton(description="play", icon="play")
        self.question = ipw.Text(
            value=question or "",
            description="question",
            placeholder="describe",
            continuous_update=False,
            layout=ipw.Layout(width="460px"),
        )
        self.now, self.said, self.true = ipw.HTML(), ipw.HTML(), ipw.HTML()
        head = ipw.HBox([self.play, self.now], layout=ipw.Layout(align_items="center"))
        super().__init__([head, self.question, self._view, self.said, self.true])
        self.play.observe(lambda change: self._start() if change.new else None, "value")
        self.question.observe(lambda change: self.ask(change.new), "value")
        self.step()

    def ask(self, question: str | None):
        """Ask something else from the next frame on; "" or None: it describes."""
        with self._lock:
            self.session.ask((question or "").strip() or None)

    def step(self) -> bool:
        """See the next frame, and show it; False when there is none left."""
        with self._lock:
            glimpse = next(self._coming, None)
        if glimpse is None:
            self._over = True
            return False
        self.glimpses.append(glimpse)
        self._show(glimpse)
        return True

    def _start(self):
        """Play in a thread of its own, so that the kernel hears what is typed meanwhile."""
        threading.Thread(target=self._play, daemon=True).start()

    def _play(self):
        due = time.monotonic()
        try:
            while self.play.value and self.step():
                due = max(due + 1 / self.rate, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
        except Exception as error:  # nobody hears a thread
            self.now.value, self._over = html.escape(f"{type(error).__name__}: {error}"), True
            raise
        finally:
            if self._over:
                self.play.value, self.play.disabled = False, True

    def _show(self, glimpse: Glimpse):
        asked = f"asked: {glimpse.question}" if glimpse.question else "describes"
        most = f"brightest patch: {glimpse.gaze.map()[0].max():.1%} of the attention"  # each frame's own
        self.now.value = f"{clock(glimpse.seconds)} &nbsp; {html.escape(asked)} &nbsp; <small>{most}</small>"
        boxes, target, true = self._truth(glimpse)
        clip = Clip(glimpse.gaze.frames, None, "", boxes=boxes, target=target)
        self._view.show_look(glimpse.gaze, 0, clip, 0.5, SCALE)
        if glimpse.text is not None:
            spoken = [one for one in self.glimpses if one.text is not None][-SHOWN:]
            self.said.value = "<br>".join(_line(one) for one in reversed(spoken))
        self.true.value = f"<i>true: {html.escape(true)}</i>" if true else ""

    def _truth(self, glimpse: Glimpse):
        """The boxes (1, n, 4) of this frame, which of them the question that was asked is about (-1: of none
        that is known) and what is true, where the film is known."""
        for shot in self.shots:
            if shot.start <= glimpse.seconds < shot.end and shot.clip.boxes is not None:
                t = int(
                    (glimpse.seconds - shot.start) / (shot.end - shot.start) * len(shot.clip.boxes) + 1e-6
                )
                target = shot.clip.target if glimpse.question == shot.clip.question else -1
                return shot.clip.boxes[t : t + 1], target, shot.clip.caption
        return None, -1, ""

    def _repr_mimebundle_(self, **kwargs):
        """The live widget, and for where no kernel runs a picture of the last frames it saw."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        picture = gaze_picture(joined([glimpse.gaze for glimpse in self.glimpses[-KEPT:]]), scale=1)
        return bundle | {"image/png": image_bytes(picture, "PNG", optimize=True)}


def _line(glimpse: Glimpse) -> str:
    asked = f"{html.escape(glimpse.question)} " if glimpse.question else ""
    return f"{clock(glimpse.seconds)} &nbsp; {asked}<b>{html.escape(glimpse.text or '')}</b>"
