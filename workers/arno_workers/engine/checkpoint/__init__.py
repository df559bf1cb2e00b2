"""A checkpoint, from its name to a model: whatever is named becomes a local folder before anything is loaded.

`locate.py` says what a name stands for, and where its folder lies; `hub.py` and `bucket.py` bring it there first.
"""
