"""What is deployed is tested on what acceptance tests start from."""

from tests.acceptance.conftest import files_allowed, pictures, producer, settings, start_worker

__all__ = ["files_allowed", "pictures", "producer", "settings", "start_worker"]
