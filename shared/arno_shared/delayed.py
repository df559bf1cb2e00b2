"""The delayed set: attempts that were put off, sent when their time has come.

Finding: Celery keeps a message with an ETA in the worker that took it, unacknowledged, and beyond the lease it is
begun again and again. So what is to be tried later is written into a sorted set in the same step that commits the
chunk it came from (`ledger/scripts/commit.lua`), scored by the server's clock, and becomes a message when it is due.
"""

from arno_shared.broker import Sender
from arno_shared.ledger import Ledger


def release_due(ledger: Ledger, sender: Sender) -> int:
    """Sends the attempts whose time has come; how many. Raises HouseError.

    An attempt leaves the set after it was sent: sent twice is harmless, lost is not.
    """
    due_messages = ledger.due()
    for due in due_messages:
        sender.send_message(due.message, due.lane, due.task_id, due.traceparent)
        ledger.sent(due)
    return len(due_messages)
