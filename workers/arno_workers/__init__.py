"""Everything that does the work: the Celery app, the pipeline, the engine, `arno-worker`."""
