-- KEYS: workers, what this worker says of itself. ARGV: worker, its state, forget_s.
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
-- First, because a server whose memory is full refuses what may take more until a script has written something else.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
