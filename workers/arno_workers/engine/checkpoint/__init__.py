"""A checkpoint, from its name to a model: what is named becomes a local folder, is read whatever its layout, and is
refused if it is not whole.

`locate.py` says where a folder lies; `hub.py` and `bucket.py` bring it there first. `load.py` makes a model of it.
"""
