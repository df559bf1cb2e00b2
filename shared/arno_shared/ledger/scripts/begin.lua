-- ARGV: index or '', attempt, message id, prefix, format.
-- Returns the verdict ('go', 'committed', 'cancelled') and the chunk's index.
local index, attempt, message_id = ARGV[1], tonumber(ARGV[2]), ARGV[3]
open_for_message(ARGV[4], ARGV[5])
if index == '' then
  index = redis.call('HGET', LOOSE, message_id)
  if not index then
    index = redis.call('HINCRBY', JOB, 'loose', 1) - 1
    redis.call('HSET', LOOSE, message_id, index)
  end
end
index = tonumber(index)
local committed
if attempt == 1 then
  committed = redis.call('GETBIT', COMMITTED, index) == 1
else
  committed = redis.call('SISMEMBER', RETRIED, index .. '.' .. attempt) == 1
end
if committed then return {'committed', index} end
local state, origin = unpack(redis.call('HMGET', JOB, 'state', 'origin'))
if state == 'cancelled' then return {'cancelled', index} end
if state == 'done' and origin == 'message' then wake() end
return {'go', index}
