"""arno-tiny: a Florence-2 of about two million parameters that knows the world of `arno_shared.scenes`."""
