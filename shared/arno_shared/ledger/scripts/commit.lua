-- The one step that makes a chunk done: mark, count, publish, and put off or give up what failed.
-- KEYS[7..9]: topic, delayed, dead letters.
-- ARGV: index, attempt, images, ok, failed, event, event type, max events, retention_s,
--       put-off images, put-off message, put-off member, put-off delay_s, letter, max letters, then pairs of code and count.
-- Returns 1, or 0 when the chunk was committed before.
local index, attempt, images = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local field = index .. '.' .. attempt
if attempt == 1 then
  if redis.call('SETBIT', COMMITTED, index, 1) == 1 then return 0 end
else
  if redis.call('SADD', RETRIED, field) == 0 then return 0 end
end

local was_buried = redis.call('HGET', BURIED, field)
if was_buried then
  redis.call('HDEL', BURIED, field)
  count('dead', -tonumber(was_buried))
  if attempt == 1 then count('buried', -1) end
elseif attempt > 1 then
  count('put_off', -images)
end
redis.call('HDEL', PUT_OFF, field)

if attempt == 1 then
  count('committed', 1)
  if redis.call('HGET', JOB, 'origin') == 'message' then
    count('chunks', 1)
    count('images', images)
  end
end
count('ok', tonumber(ARGV[4]))
count('failed', tonumber(ARGV[5]))
for i = 16, #ARGV, 2 do count('failed:' .. ARGV[i], tonumber(ARGV[i + 1])) end

redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[8], '*', 'event', ARGV[6], 'type', ARGV[7])
local put_off = tonumber(ARGV[10])
if put_off > 0 then
  count('put_off', put_off)
  redis.call('HSET', PUT_OFF, index .. '.' .. (attempt + 1), ARGV[11])
  redis.call('ZADD', KEYS[8], now() + tonumber(ARGV[13]), ARGV[12])
end
if ARGV[14] ~= '' then redis.call('XADD', KEYS[9], 'MAXLEN', '~', ARGV[15], '*', 'letter', ARGV[14]) end
settle(ARGV[9])
return 1
