-- Gives up a whole chunk without a commit. KEYS[8]: dead letters.
-- ARGV: index, attempt, images, prefix, format, letter, max letters, retention_s.
-- Returns 0 when it was given up or committed before.
local index, attempt, images = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local field = index .. '.' .. attempt
even_when_full()
forget_begun(field, images)
if is_committed(index, attempt) or redis.call('HSETNX', BURIED, field, images) == 0 then
  -- Its message came again, and may have woken the job.
  settle(ARGV[8])
  return 0
end
-- The ledger may have been lost since the chunk was begun.
open_for_message(ARGV[4], ARGV[5])
leave_waiting(attempt, images, redis.call('HDEL', PUT_OFF, field) == 1)
if attempt == 1 then count('buried', 1) end
count('dead', images)
redis.call('XADD', KEYS[8], 'MAXLEN', '~', ARGV[7], '*', 'letter', ARGV[6])
settle(ARGV[8])
return 1
