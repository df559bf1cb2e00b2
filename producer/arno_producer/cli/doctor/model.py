"""Will workers run what ARNO_WORKER__MODEL names? Looked at from outside: headers are read, and nothing is loaded."""

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.named_model import adapter_named, folder_named, look_at
from arno_shared.checkpoint.files import Wanted
from arno_shared.checkpoint.survey import Survey
from arno_shared.errors import ArnoError
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore

_MEND = "set ARNO_WORKER__MODEL to a bundled model, a folder, an s3:// folder or a hub id (owner/name)"
_LOOK = "arno model FOLDER says more"


def check_model(worker: WorkerSettings, store: ObjectStore) -> Finding:
    try:
        folder = folder_named(worker.model, Wanted.MODEL, store)
        if folder is None:
            # What lies here is looked at all the same.
            if worker.adapter:
                adapter_named(worker.adapter, store)
            words = f"{worker.model}, a hub id: workers download it; it cannot be checked from here"
            return Finding("model", Verdict.NOTE, words)
        found, unseen = look_at(folder, worker.processor, worker.adapter, store)
    except (ArnoError, OSError) as error:
        return Finding("model", Verdict.FAILED, str(error), _MEND)
    if found.problems:
        return Finding("model", Verdict.FAILED, f"{found.folder.name}: {found.problems[0]}; {found.kind}", _LOOK)
    words = "; ".join(filter(None, (f"{found.folder.name}: {found.layout}", str(found.rules or ""), _adapted(found))))
    if unseen:
        words += f"; {' and '.join(unseen)} cannot be checked from here: workers download what is on the hub"
        return Finding("model", Verdict.NOTE, words)
    if found.rules is not None and found.rules.is_poor:
        return Finding("model", Verdict.NOTE, words, "Florence-2 is meant to be searched with beams, no 3-gram twice")
    return Finding("model", Verdict.OK, words)


def _adapted(found: Survey) -> str:
    return f"adapter {found.adapter}" if found.adapter else ""
