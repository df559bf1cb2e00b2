-- Files a message with the dead letters and takes it out of hand. KEYS: unacked, its index, dead letters.
-- ARGV: tag, letter, max letters.
may_take_out()
-- Whose lease has run out is not filed here as well: whoever has the message now does.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'letter', ARGV[2])
end
take_out(ARGV[1])
