-- ARGV: index or '', attempt, message id, prefix, format.
-- Returns the verdict ('go', 'committed', 'cancelled') and the chunk's index.
local index, attempt, message_id = ARGV[1], tonumber(ARGV[2]), ARGV[3]
open_for_message(ARGV[4], ARGV[5])
if index == '' then
  index = redis.call('HGET', LOOSE, message_id)
  if not index then
    index = redis.call('HINCRBY', JOB, 'loose', 1) - 1
    redis.call('HSET', LOOSE, message_id, index)
    -- The job may have ended, and be ageing.
    local left_s = redis.call('TTL', JOB)
    if left_s > 0 then redis.call('EXPIRE', LOOSE, left_s) end
  end
end
index = tonumber(index)
if is_committed(index, attempt) then return {'committed', index} end
local state, origin = unpack(redis.call('HMGET', JOB, 'state', 'origin'))
if state == 'cancelled' then return {'cancelled', index} end
if state == 'done' and origin == 'message' then wake() end
return {'go', index}
