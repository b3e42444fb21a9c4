"""Handlers of the page: each gets the visitor's session, and whatever goes wrong in one reaches the visitor as a sentence."""

import copy
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from hat.errors import HatError, UsageError, describe_failure, is_out_of_memory
from hat.serve.gallery.identities import Identity, parse_identity

from .app_state import Session
from .view.markup import escaped

Values = tuple[Any, ...]
"""Values of components, in their order."""

GENERAL = "Something in the demo itself went wrong; nothing was changed. The terminal where it runs says what it was."

CLICKS = """
element.addEventListener('click', (click) => {
  const hit = click.target.closest('[data-event]');
  if (!hit || !element.contains(hit)) return;
  const choice = hit.closest('[data-choice]')?.dataset.choice;
  const pressed = hit.getAttribute('aria-pressed') === 'true';
  if (choice === 'one') {
    element.querySelectorAll('[aria-pressed]').forEach((other) => other.setAttribute('aria-pressed', 'false'));
    hit.setAttribute('aria-pressed', 'true');
  } else if (choice === 'many') {
    hit.setAttribute('aria-pressed', String(!pressed));
  }
  trigger(hit.dataset.event, { index: Number(hit.dataset.index), pressed: !pressed });
});
"""
"""For an HTML component whose buttons say by ``data-event`` and ``data-index`` what was chosen; the mark of a choice moves at
once, without waiting for the server."""

_log = logging.getLogger(__name__)


def bind(
    event: Callable[..., Any],
    handler: Callable[..., Values],
    session_state: gr.State,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    reads_click: bool = False,
    shows_progress: bool = False,
    **options: Any,
) -> Any:
    """Call a handler when something happens on the page; return what the event gives, to be followed by others.

    The handler is called with the session, then the event's data where it ``reads_click``, or a ``gr.Progress`` where it
    ``shows_progress``, and the values of ``inputs``; it gives the values of ``outputs``.
    """

    def run(session: Session, *values: Any) -> Any:
        # The handler works on a draft: what it changed before it failed never reaches the visitor's session, and what others
        # changed meanwhile stays.
        draft, before = copy.copy(session), vars(session).copy()
        written = _in_sentences(handler, draft, *values)
        for name, value in vars(draft).items():
            if value is not before[name]:
                setattr(session, name, value)
        return (session, *written) if outputs else session  # of a single output the library takes a tuple for its value

    def run_clicked(session: Session, data: gr.EventData, *values: Any) -> Any:
        return run(session, data, *values)

    def run_with_progress(session: Session, progress: Any = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        return run(session, progress, *values)

    chosen = run_clicked if reads_click else run_with_progress if shows_progress else run
    return event(
        chosen,
        inputs=[session_state, *inputs],
        outputs=[session_state, *outputs],
        show_progress=options.pop("show_progress", "full" if shows_progress else "minimal"),
        api_visibility="private",
        **options,
    )


def event_data(event: gr.EventData) -> dict[str, Any]:
    """Return what a page sent with an event; anybody can send anything."""
    return event._data if isinstance(event._data, dict) else {}


def clicked(event: gr.EventData) -> int:
    """Return which button was clicked; a UsageError where the page sent something else."""
    index = event_data(event).get("index")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**53:
        raise UsageError("the page sent a choice that means nothing: reload it")
    return index


def whole_number(text: Any, name: str) -> int | None:
    """Return a number 0, 1, 2 ... as a visitor types it; None for an empty field."""
    typed = str(text if text is not None else "").strip()
    if not typed:
        return None
    if not (typed.isascii() and typed.isdigit() and int(typed) < 2**31):
        raise UsageError(f"{name} is a whole number of at least 0, got {typed[:20]}")
    return int(typed)


def typed_identity(text: Any) -> Identity | None:
    """Return an identity as a visitor types it, a number or a name; None for an empty field."""
    typed = str(text if text is not None else "").strip()
    return parse_identity(typed, "an identity") if typed else None


def _in_sentences(handler: Callable[..., Values], *values: Any) -> Values:
    try:
        return handler(*values)
    except HatError as error:
        # The page shows messages as HTML, and they may quote names of files that a stranger chose.
        raise gr.Error(escaped(str(error)), title="That did not work", print_exception=False) from None
    except gr.Error:
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defense: whatever it was, a visitor reads a sentence
        frame = traceback.extract_tb(error.__traceback__)[-1]
        _log.error("%s at %s:%s: %s", type(error).__name__, frame.filename, frame.lineno, error)
        text = describe_failure(error) if is_out_of_memory(error) else GENERAL
        raise gr.Error(text, title="That did not work", print_exception=False) from None
