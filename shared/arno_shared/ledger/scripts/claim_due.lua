-- KEYS[1]: delayed. ARGV: limit, seconds that the caller has to send them.
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
-- A server whose memory is full refuses what may take more, until a script has written something else.
redis.call('ZREM', KEYS[1], '')
for _, member in ipairs(members) do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), member) end
return members
