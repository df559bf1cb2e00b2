"""Celery's face: how messages come in, are held, and go out again.

`app.py` is the Celery worker, `tasks.py` the body of its task, `unreadable.py` what is no message; `lease.py` and
`releaser.py` are threads of their own. Nothing else in the worker knows Celery. It hands each message to `pipeline`;
only `node.py` comes in.
"""
