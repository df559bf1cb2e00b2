-- A beginning came to its end, or to nothing through no fault of its own. ARGV: index.attempt, or
-- index.attempt/position.
even_when_full()
local count = string.match(redis.call('HGET', BEGUN, ARGV[1]) or '0:', '^(%d+):(.*)$')
if tonumber(count) > 1 then
  redis.call('HSET', BEGUN, ARGV[1], (count - 1) .. ':')
else
  redis.call('HDEL', BEGUN, ARGV[1])
end
