"""From bytes that may be anything to an RGB picture, or an ItemError.

`picture.py` is the door; what one format needs lies in a file of its name. Only `pipeline` comes in.
"""
