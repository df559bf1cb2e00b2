"""Everything that does the work, in rooms between which arrows only run down.

    cli, node ─▶ consumer ─▶ pipeline ─▶ engine, fetch, decode, health

`handover` and `devices` lie on the ground; `tiny` beside, over `engine`. `tests/test_boundaries.py` has each arrow.
"""
