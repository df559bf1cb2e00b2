"""Can results be written, read back and listed?"""

import secrets

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_shared.errors import ArnoError, HouseError
from arno_shared.storage import ObjectStore


def check_storage(store: ObjectStore, prefix: str) -> Finding:
    """Leaves one small object there, the same one each time."""
    folder = f"{prefix}_arno/"
    uri, token = f"{folder}doctor.txt", secrets.token_hex(8).encode()
    try:
        store.put(uri, token, "text/plain")
        intact = store.get(uri) == token
        listed = any(stored.uri == uri for stored in store.list(folder))
    except HouseError as error:
        return Finding("storage", Verdict.FAILED, f"{prefix}: {error}", "start it, or set AWS_ENDPOINT_URL_S3")
    except ArnoError as error:
        mend = "set ARNO_OUTPUT_PREFIX to where this account may put, get and list"
        return Finding("storage", Verdict.FAILED, f"{prefix}: {error}", mend)
    if intact and listed:
        return Finding("storage", Verdict.OK, f"{prefix} can be written, read and listed")
    says = f"{prefix}: what was written is not {'listed' if intact else 'what is read back'}"
    return Finding("storage", Verdict.FAILED, says, "use a storage that shows an object as soon as it is written")


def check_conditional_writes(store: ObjectStore, prefix: str) -> Finding:
    try:
        if store.conditional_writes(prefix):
            return Finding("conditional writes", Verdict.OK, "honoured")
    except ArnoError as error:
        return Finding("conditional writes", Verdict.NOTE, f"{prefix}: {error}")
    return Finding(
        "conditional writes",
        Verdict.NOTE,
        "not honoured: when two workers do one chunk at the same moment, its object is written twice",
        "nothing: the answers are the same, and it is counted once",
    )
