-- Gives the messages back whose lease has run out, by the server's clock. ARGV: key prefix, lease_s, limit.
-- Returns how many there were.
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
may_take_out()
-- By the clock of another server, which this one follows, or of this one before it was set back: a dead worker's
-- message would wait until then. A living one's lease is renewed.
local after_now = '(' .. string.format('%.6f', now)
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], after_now, '+inf', 'LIMIT', 0, ARGV[3])) do
  redis.call('ZADD', KEYS[2], 'XX', now, tag)
end
local given = 0
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2], 'LIMIT', 0, ARGV[3])) do
  if give_back(tag, 'next', false) then given = given + 1 end
end
return given
