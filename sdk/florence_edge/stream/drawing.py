"""The picture of an event: its frame with the answers of all tasks on it."""

from __future__ import annotations

from PIL import Image

from .events import Event


def drawn(event: Event) -> Image.Image:
    """The frame with everything found drawn on it, as RGB; the frame itself where nothing was."""
    picture = Image.fromarray(event.frame.image)
    for result in event.results.values():
        picture = result.draw(picture)
    return picture
