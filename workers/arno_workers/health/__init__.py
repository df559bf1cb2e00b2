"""Signs of life, and who looks at them.

`vitals.py` is written by whoever does something. `watchdog.py` ends a worker in which nothing moves; `probes.py` serves
`/healthz`, `/readyz` and `/metrics`, `presence.py` is what `arno workers` shows, `spot.py` hears that the machine is
taken away. `node.py`, `consumer` and `pipeline` come in; from here nothing of the worker is called.
"""
