"""What makes delivery safe: Celery on stock kombu and Redis loses, doubles or stalls messages, whatever its settings.

What goes wrong, and what answers it:

- A worker killed between taking a message and recording it loses the message: `scripts/claim.lua` does both in one
  step.
- Messages in hand are scored by workers' own clocks, and looked through under a lock that a dead worker may hold for
  minutes: `scripts/sweep.lua` has the server's clock, and no lock.
- A worker that was thought dead acknowledges, or gives back, what another holds by now: each claim has a tag of its
  own.
- Work that takes longer than the visibility timeout is begun again and again: `hands.py` knows what is held, and the
  worker's lease thread renews it.
- An acknowledgement over a connection that is gone fails, and with it the credit for the next message: `hands.py` has
  a connection of its own, and credit is what it holds.
- Messages are given back when the connection is lost, while threads still work on them: `qos.py` gives back only when
  the worker stops.
- An entry that is no message ends the worker that takes it: `claim.lua` files it with the dead letters.
- Waiting for two queues means asking again and again, and a message wakes every worker that waits: `bell.py` wakes
  one.
- A new kombu may move what this package overrides: `compatibility.py` looks before anything starts.
"""
