"""arno-tiny: a Florence-2 of about two million parameters that knows the world of `arno_shared.scenes`.

How it is made, taught and measured, by `make train` and `make evaluate`; no worker comes in.
"""
