"""What a call that failed says of the actor that it was made to."""

from __future__ import annotations

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError

from actors.messages import GeneratorError
from controller.waiting import StallError
from transport.weight_receiver import TransferError

_NODE_DIED = "its node has died"  # in Ray's text; it gives the cause in no other way


def is_gone(error: Exception) -> bool:
    """Whether an actor is of no more use: its process or node died, it does not answer, or its engine failed."""
    if isinstance(error, RayTaskError):
        return isinstance(error, (GeneratorError, TransferError, TimeoutError))  # whatever else its method raised
    return isinstance(error, (RayError, StallError, GeneratorError, TransferError))


def is_blameless(cause: BaseException) -> bool:
    """Whether it was the node that died, or cannot be reached: that says nothing against the actor's next life.

    Until Ray knows of a node's death, which takes it some 20 seconds, new actors may be sent there, to die with it.
    """
    return isinstance(cause, ActorUnavailableError) or (isinstance(cause, ActorDiedError) and _NODE_DIED in str(cause))


def in_words(cause: BaseException) -> str:
    """Why an actor is gone."""
    if isinstance(cause, ActorUnavailableError):
        return "it cannot be reached"
    if isinstance(cause, ActorDiedError):
        return "its node died" if is_blameless(cause) else "its process died: " + _first_line(cause)
    return _first_line(cause) or type(cause).__name__


def _first_line(cause: BaseException) -> str:
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
