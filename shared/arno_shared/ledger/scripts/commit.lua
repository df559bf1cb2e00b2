-- The one step that makes a chunk done: mark, count, publish, and put off or give up what failed.
-- KEYS[8..10]: topic, delayed, dead letters.
-- ARGV: index, attempt, images, prefix, format, ok, failed, event, event type, max events, retention_s,
--       put-off images, put-off message, put-off member, put-off delay_s, letter, max letters, then pairs of code and count.
-- Without an event, nothing is published: the chunk was announced before the ledger was lost.
-- Returns 1, or 0 when the chunk was committed before.
local index, attempt, images = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local field = index .. '.' .. attempt
even_when_full()
forget_begun(field, images)
if attempt == 1 then
  if redis.call('SETBIT', COMMITTED, index, 1) == 1 then return 0 end
else
  if redis.call('SADD', RETRIED, field) == 0 then return 0 end
end

-- The ledger may have been lost since the chunk was begun.
open_for_message(ARGV[4], ARGV[5])
local was_buried = redis.call('HGET', BURIED, field)
local was_put_off = redis.call('HDEL', PUT_OFF, field) == 1
if was_buried then
  redis.call('HDEL', BURIED, field)
  count('dead', -tonumber(was_buried))
  if attempt == 1 then count('buried', -1) end
else
  leave_waiting(attempt, images, was_put_off)
end
if attempt == 1 then count('committed', 1) end
count('ok', tonumber(ARGV[6]))
count('failed', tonumber(ARGV[7]))
for i = 18, #ARGV, 2 do count('failed:' .. ARGV[i], tonumber(ARGV[i + 1])) end

if ARGV[8] ~= '' then
  redis.call('XADD', KEYS[8], 'MAXLEN', '~', ARGV[10], '*', 'event', ARGV[8], 'type', ARGV[9])
end
local put_off = tonumber(ARGV[12])
if put_off > 0 and not is_committed(index, attempt + 1) then
  count('put_off', put_off)
  redis.call('HSET', PUT_OFF, index .. '.' .. (attempt + 1), ARGV[13])
  redis.call('ZADD', KEYS[9], now() + tonumber(ARGV[15]), ARGV[14])
  -- A chunk that had been buried may be committed after its job was done.
  if redis.call('HGET', JOB, 'state') == 'done' then wake() end
end
if ARGV[16] ~= '' then redis.call('XADD', KEYS[10], 'MAXLEN', '~', ARGV[17], '*', 'letter', ARGV[16]) end
settle(ARGV[11])
return 1
