-- A beginning came to nothing through no fault of its own. ARGV: index.attempt or index.attempt/position, its token.
even_when_full()
local count, last = string.match(redis.call('HGET', BEGUN, ARGV[1]) or '0:', '^(%d+):(.*)$')
-- Called again because its answer was lost, or after another beginning, it is not counted off twice.
if last ~= ARGV[2] then return end
if tonumber(count) > 1 then
  redis.call('HSET', BEGUN, ARGV[1], (count - 1) .. ':')
else
  redis.call('HDEL', BEGUN, ARGV[1])
end
