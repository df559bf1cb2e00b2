"""Which schemes a stranger's URI may have."""

from arno_shared.errors import SchemeNotAllowed
from arno_shared.settings import LimitSettings


def check_scheme(scheme: str, limits: LimitSettings) -> None:
    """Raises SchemeNotAllowed."""
    if scheme not in limits.schemes:
        raise SchemeNotAllowed(
            f"images from {scheme[:50]}:// are not allowed, only from {', '.join(limits.schemes)}: ARNO_LIMITS__SCHEMES"
        )
