"""Telling the artist something that is not an error: in the log and on the node."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger(__name__)


def notify(node_id: str | None, text: str) -> None:
    """Log a warning and show it as text on the node.

    Args:
        node_id: ``cls.hidden.unique_id``; None outside of a running graph.
        text: one or more sentences.
    """
    logger.warning("%s", text)
    show(node_id, text)


def show(node_id: str | None, text: str) -> None:
    """Show text on the node in place of what it showed before (the front end ignores an empty text)."""
    # Only look the server up: importing it here would start half of ComfyUI where no server runs.
    module = sys.modules.get("server")
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if node_id is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)
