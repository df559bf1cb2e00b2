"""What both sides of Arno speak: messages, prompts, names, settings, errors, storage, ledger, topic."""

__version__ = "0.1.0"
