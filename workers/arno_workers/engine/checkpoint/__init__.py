"""A checkpoint, from its name to a model: found, fetched, read whatever its layout, and refused if it is not whole."""
