"""Triggers: what object storage says of new objects becomes work, by rules."""
