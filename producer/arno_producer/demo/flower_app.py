"""The Celery app that Flower watches through: `celery -A arno_producer.demo.flower_app flower`."""

from arno_shared.broker import celery_app
from arno_shared.settings import Settings

app = celery_app(Settings())
