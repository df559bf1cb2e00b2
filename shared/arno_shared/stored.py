"""What is kept, in storage or in Redis, and read later by others."""

from pydantic import ConfigDict

from arno_shared.messages import WireModel


class StoredModel(WireModel):
    """Its readers may be older than who wrote it: what they do not know of it, they pass over."""

    model_config = ConfigDict(extra="ignore")
