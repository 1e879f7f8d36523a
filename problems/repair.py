"""What a repair model reads: the prompt of the problem, a program, and what the program did on the examples.

It is the second turn of a dialogue (`problems/prompts.py`), in which the program is the first answer. A repair model is
trained on this text and asked with it, so both go through `repair_exchange`. Only the program is shown: what another
model wrote around it would differ between the two.
"""

from __future__ import annotations

from rltf.problems.prompts import Exchange, PromptFormat, answer_text


def repair_exchange(program: str, feedback: str, form: PromptFormat) -> Exchange:
    """The program as an answer, and the `feedback` on it (`sandbox/feedback.py`)."""
    return Exchange(answer_text(program, chat=form.chat), feedback)
