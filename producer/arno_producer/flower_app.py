"""The Celery app that Flower watches through: `celery -A arno_producer.flower_app flower`."""

from arno_shared.broker import celery_app
from arno_shared.settings import Settings


def _watching(settings: Settings) -> Settings:
    """Takes no message, so it needs none of Arno's own transport, whose queues Flower cannot count."""
    return settings.model_copy(update={"broker": settings.broker.model_copy(update={"transport": "stock"})})


app = celery_app(_watching(Settings()))
# Messages that other clients gave a priority lie in lists of their own, which Flower counts where it is told of them.
app.conf.broker_transport_options = {**app.conf.broker_transport_options, "priority_steps": [0, 3, 6, 9]}
