-- Puts a message at the far end of a list, when memory is full as well. KEYS: index of unacked, list. ARGV: message.

-- A server whose memory is full refuses what may take more, until a script has written something else.
redis.call('ZREM', KEYS[1], '')
redis.call('LPUSH', KEYS[2], ARGV[1])
