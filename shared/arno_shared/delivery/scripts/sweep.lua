-- Gives the messages back whose lease has run out, by the server's clock. ARGV: key prefix, lease_s, limit.
-- Returns how many there were.
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local given = 0
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[2], 'LIMIT', 0, ARGV[3])) do
  if give_back(tag, 'next', false) then given = given + 1 end
end
return given
