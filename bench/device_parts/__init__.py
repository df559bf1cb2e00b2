"""The parts of bench/device.py: each file measures one thing, piece by piece.

A part is a function `pieces(machine, **arguments)`; bench/device.py says which there are, in which order, and how long
each may take.
"""
