"""The README's answer beside what a token costs: two paragraphs whose words follow the intervals."""

from fvlm.findings import sources
from fvlm.findings.withdrawn import withdrawn_in_short
from fvlm.findings.words import answers_beside, of_a_saliency_model, percent_range, trained_sizes
from fvlm.studies.question import CROWDED


def beside_the_cost(learning: str = "", steering: list[str] | None = None) -> list[str]:
    """Whether a question steers the gaze, by the study of questions (`steering`: a head, lines) or as long as that
    was not scored by the runs before it, and if that was run who learns to answer sooner (`learning`); and what is
    withdrawn."""
    head, *lines = [*(steering or _steering()), *filter(None, [learning])]
    return [f"{head}\n" + ";\n".join(f"- {line}" for line in lines) + ".", withdrawn_in_short()]


def _steering() -> list[str]:
    """Whether it does, and a line each on the gaze and on the answer, without full stops."""
    samples, table, gazes = sources.questions()
    runs, control = (table[table["run"].str.startswith(f"T2-T_2f_{arch}_")] for arch in ("fov", "sta"))
    follows = runs["hit_low"].min() > runs["hit_other_high"].max()
    study = sources.study("question")
    named = trained_sizes(study, ["T2-T"])["T2-T"]
    eye = ", on DINOv2-small as a saliency model ships it" if of_a_saliency_model(study) else ""
    return [
        f"**Whether a question steers the gaze**: {'it does' if follows else 'that cannot be told'};",
        f"at {named}, asked about one of {CROWDED} or more shapes, the patch that the model attends to most is on that "
        f"shape in {percent_range(runs['hit'])} % of frames (lowest and highest of {len(runs)} seeds{eye}), in "
        f"{percent_range(runs['hit_other'])} % when another is asked about; that of a control with one static query for "
        f"everything in {percent_range(control['hit'])} %, and a patch at random in "
        f"{100 * runs['chance'].mean():.1f} %",
        f"beside that control {answers_beside(samples, table, gazes, 'static')}",
    ]
