"""Phrases whose boxes count for none in phrase grounding: words that point at everything, and name nothing.

Those that Florence-2's original processor passes over. Checkpoints in transformers' layout carry them in
`processor_config.json`; Microsoft's have them in their code alone.
"""

_PRONOUNS = """
    I me mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
    we us our ours ourselves they them their theirs themselves one oneself
    this that these those who whom whose which what
    all another any anybody anyone anything each everybody everyone everything few many nobody none several some
    somebody someone something
"""
_OTHERS = "the image|image|images|the|a|an|a group|a set|lots|other objects|each other|one another"

BANNED_PHRASES: tuple[str, ...] = (*_PRONOUNS.split(), *_OTHERS.split("|"))
