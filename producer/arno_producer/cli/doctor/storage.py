"""Can results be written, read back and listed?"""

import secrets

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.client import new_job_id
from arno_shared.errors import ArnoError, HouseError
from arno_shared.storage import ObjectStore
from arno_shared.storage.arbiter import LIFE_S
from arno_shared.uris import check_output_prefix


def check_storage(store: ObjectStore, prefix: str) -> Finding:
    """Leaves one small object there, the same one each time."""
    try:
        check_output_prefix(f"{prefix}{new_job_id()}/")
    except ValueError as error:
        says = f"{prefix}: jobs have folders of their own below it, and {error}"
        return Finding("storage", Verdict.FAILED, says, "set ARNO_OUTPUT_PREFIX to a shorter one")
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
        # A job's record is written so, before anything is sent.
        mend = "let this account write with If-None-Match, or use a storage that does not know it"
        return Finding("conditional writes", Verdict.FAILED, f"{prefix}: {error}", mend)
    return Finding(
        "conditional writes",
        Verdict.NOTE,
        "not honoured: locks in Redis let one at a time write an object; what a worker was writing when it died waits "
        f"for up to {LIFE_S:.0f} s",
        "nothing, as long as all who write there share this Redis and its key prefix",
    )
