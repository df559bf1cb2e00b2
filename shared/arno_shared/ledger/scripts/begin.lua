-- ARGV: index or '', attempt, message id, prefix, format, token.
-- Returns the verdict ('go', 'committed', 'cancelled', 'paused'), the chunk's index, and how often it was begun without an end,
-- this time included.
local index, attempt, message_id = ARGV[1], tonumber(ARGV[2]), ARGV[3]
even_when_full()
open_for_message(ARGV[4], ARGV[5])
if index == '' then
  index = redis.call('HGET', LOOSE, message_id)
  if not index then
    index = redis.call('HINCRBY', JOB, 'loose', 1) - 1
    redis.call('HSET', LOOSE, message_id, index)
    age_with_job(LOOSE)
  end
end
index = tonumber(index)
if is_committed(index, attempt) then return {'committed', index, 0} end
local state, origin = unpack(redis.call('HMGET', JOB, 'state', 'origin'))
if state == 'cancelled' or state == 'paused' then return {state, index, 0} end
if state == 'done' and origin == 'message' then wake() end
return {'go', index, count_beginning(index .. '.' .. attempt, ARGV[6])}
