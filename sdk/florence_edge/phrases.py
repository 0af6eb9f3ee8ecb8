"""Phrases that name nothing to point at: what the published processor leaves out of phrase grounding."""

from __future__ import annotations

_WORDS = """
    it I me mine you your yours he him his she her hers they them their theirs one oneself we us our ours its
    myself yourself himself herself itself ourselves yourselves themselves
    this that these those who whom whose which what
    all another any anybody anyone anything each everybody everyone everything few many nobody none several some
    somebody someone something
    image images the a an lots
"""

UNGROUNDABLE = frozenset(_WORDS.split()) | {
    "each other",
    "one another",
    "the image",
    "a group",
    "other objects",
    "a set",
}
"""The published blacklist (`banned_grounding_tokens`), each phrase once; case matters, as it does there."""
