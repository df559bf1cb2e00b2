-- Gives up a whole chunk without a commit.
-- A: index, attempt, images, prefix, format, digest of what was asked, letter, max letters, positions of a later attempt's
--    images or ''.
-- Returns 0 when it was given up or committed before.
local index, attempt, images = tonumber(A[1]), tonumber(A[2]), tonumber(A[3])
local field = index .. '.' .. attempt
even_when_full()
local alien = is_anothers(index, attempt, A[6])
if not alien then forget_begun(field, images) end
if not alien and (is_committed(index, attempt) or redis.call('HEXISTS', BURIED, field) == 1) then
  -- Its message came again, and may have woken the job.
  if redis.call('EXISTS', JOB) == 1 then settle() end
  return 0
end
-- The ledger may have been lost since the chunk was begun.
open_for_message(A[4], A[5])
local letter = redis.call('XADD', DEAD, 'MAXLEN', '~', A[8], '*', 'letter', A[7])
-- It is kept for itself: what has the job's id, or the index, by now does not count it.
if alien or not is_of_job(attempt, A[4], A[5], A[6]) then return 1 end
if get('origin') == 'message' then
  raise_top(index)
  note_asked(index, attempt, A[6])
end
leave_waiting(attempt, images, redis.call('HDEL', PUT_OFF, field) == 1)
redis.call('HSET', BURIED, field, table.concat({images, letter, A[6], A[9]}, ':'))
if attempt == 1 then
  forget_message()
  count('buried', 1)
  note(field .. '/buried')
end
count('dead', images)
settle()
return 1
