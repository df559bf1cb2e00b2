-- The one step that makes a chunk done: mark, count, publish, and put off or give up what failed.
-- A: index, attempt, images, prefix, format, digest of what was asked, ok, failed, event, event type, max events, put-off
--    images, put-off message, put-off delay_s, letter, max letters, then pairs of code and count.
-- Without an event, nothing is published: the chunk is known by its result object alone, after the loss of the ledger.
-- Returns 1, or 0 when the chunk was committed before, or is not of the job that has its id by now.
local index, attempt, images = tonumber(A[1]), tonumber(A[2]), tonumber(A[3])
local field, event = index .. '.' .. attempt, A[9]
local restored_field = field .. '/restored'
even_when_full()
if is_anothers(index, attempt, A[6]) then return 0 end
forget_begun(field, images)

local function publish()
  redis.call('XADD', TOPIC, 'MAXLEN', '~', A[11], '*', 'event', event, 'type', A[10])
end

-- Whether it was restored before: then whoever has it in hand announces what it did, and once.
local function take_restored()
  if attempt == 1 then
    return redis.call('GETBIT', RESTORED, index) == 1 and redis.call('SETBIT', RESTORED, index, 0) == 1
  end
  return redis.call('HDEL', BEGUN, restored_field) == 1
end

-- What is restored is counted, though it may have been once before the ledger had let its job go.
local bygone = attempt == 1 and redis.call('GETBIT', BYGONE, index) == 1 and redis.call('GETBIT', COMMITTED, index) == 0
if is_committed(index, attempt) and not (bygone and event == '') then
  if event ~= '' and take_restored() then publish() end
  return 0
end
-- The ledger may have been lost since the chunk was begun.
open_for_message(A[4], A[5])
if not is_of_job(attempt, A[4], A[5], A[6]) then return 0 end
local by_message = get('origin') == 'message'
if attempt == 1 then
  redis.call('SETBIT', COMMITTED, index, 1)
  forget_message()
end
local was_passed_over = redis.call('ZSCORE', COMMITS, field .. '/buried') or redis.call('ZSCORE', COMMITS, 'ended')
if attempt > 1 or by_message or was_passed_over then note(field) end
if by_message then
  raise_top(index)
  note_asked(index, attempt, A[6])
end

local was_put_off, was_buried = redis.call('HDEL', PUT_OFF, field) == 1, unbury(field)
-- Both, where its letter was filed before a lost ledger was restored.
if not was_buried or (attempt > 1 and was_put_off) then leave_waiting(attempt, images, was_put_off) end
if attempt == 1 then count('committed', 1) end
count('ok', tonumber(A[7]))
count('failed', tonumber(A[8]))
for i = 17, #A, 2 do count('failed:' .. A[i], tonumber(A[i + 1])) end

if event ~= '' then
  publish()
elseif attempt == 1 then
  if not bygone then redis.call('SETBIT', RESTORED, index, 1) end
else
  redis.call('HSET', BEGUN, restored_field, 1)
end
local put_off, next_field = tonumber(A[12]), index .. '.' .. (attempt + 1)
if put_off > 0 and not is_committed(index, attempt + 1) then
  count('put_off', put_off)
  redis.call('HSET', PUT_OFF, next_field, A[13])
  redis.call('ZADD', DELAYED, now() + tonumber(A[14]), JOB_ID .. '/' .. next_field)
  -- A chunk that had been buried may be committed after its job was done.
  if get('state') == 'done' then wake() end
end
if A[15] ~= '' then redis.call('XADD', DEAD, 'MAXLEN', '~', A[16], '*', 'letter', A[15]) end
settle()
return 1
