"""A real worker and a producer, for the zoo as for the acceptance tests."""

from tests.acceptance.conftest import files_allowed, producer, settings, start_worker

__all__ = ["files_allowed", "producer", "settings", "start_worker"]
