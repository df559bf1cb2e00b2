-- Files a message with the dead letters and takes it out of hand. KEYS: unacked, its index, dead letters.
-- ARGV: tag, letter, max letters.

-- First: it may be done when memory is full, and then so may the rest.
redis.call('ZREM', KEYS[2], ARGV[1])
-- Whose lease has run out is not filed here as well: whoever has the message now does.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'letter', ARGV[2])
  redis.call('HDEL', KEYS[1], ARGV[1])
end
