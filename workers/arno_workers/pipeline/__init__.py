"""The life of a chunk, from its message to its commit.

`chunk_handler.py` is the way through, and each other file a station of it: `delivery.py`, `intake.py`, `chunk_run.py`,
`rows.py`, `result_writer.py`. It calls `fetch`, `decode` and `engine`, and knows nothing of Celery. `consumer` and
`node.py` come in.
"""
