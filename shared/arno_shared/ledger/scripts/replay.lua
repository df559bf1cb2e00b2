-- Takes a letter out of the dead letters and makes its chunk due at once.
-- A: entry id, kind, index, attempt of the letter, images, message, attempt to make, prefix, format, digest of what a whole
--    chunk asks or '', then pairs of code and count.
-- Returns 'replayed'; 'gone' when the letter is no longer there; 'cancelled' when its job is, and 'conflict' when other work
-- has its id or its place by now: then it stays.
may_do_all()
local entry, kind, index, attempt, images = A[1], A[2], tonumber(A[3]), tonumber(A[4]), tonumber(A[5])
local field, again = index .. '.' .. attempt, index .. '.' .. A[7]

local function uris(message)
  local found = {}
  for i, image in ipairs(cjson.decode(message).message.images) do found[i] = image.uri end
  return table.concat(found, ' ')
end

-- A letter outlives all that the ledger knows of its job: its id, and its place, may be other work's by now. A sender's job
-- opens where nothing is known of one before it.
local function is_anothers_by_now()
  local origin, created_at = unpack(redis.call('HMGET', JOB, 'origin', 'created_at'))
  if origin and not is_of_job(attempt, A[8], A[9], A[10]) then return true end
  if origin == 'sender' and tonumber(string.match(entry, '^%d+')) < 1000 * created_at - 1 then return true end
  local waits = redis.call('HGET', PUT_OFF, again)
  return is_anothers(index, attempt, A[10]) or (waits and uris(waits) ~= uris(A[6]))
end

-- What the ledger counted of them, and did not lose.
local function counted()
  local failed = 0
  for i = 11, #A, 2 do
    if number('failed:' .. A[i]) < tonumber(A[i + 1]) then return false end
    failed = failed + A[i + 1]
  end
  return is_committed(index, attempt) and failed == images
end

local function put_off(known)
  count('put_off', images)
  if not known and get('origin') == 'message' then count('images', images) end
end

if (get('state') or redis.call('HGET', TOMBSTONE, 'state')) == 'cancelled' then return 'cancelled' end
if is_anothers_by_now() then return 'conflict' end
if redis.call('XDEL', DEAD, entry) == 0 then return 'gone' end
-- A chunk that was given up and then done after all needs nothing more.
if kind == 'chunk' and is_committed(index, attempt) then return 'replayed' end
local had_messages = redis.call('HLEN', LOOSE) > 0 or (redis.call('HGET', TOMBSTONE, 'loose') or '0') ~= '0'
open_for_message(A[8], A[9])
-- Of messages of others: its index stays its own, though it is not among the given up any more.
if had_messages and kind == 'chunk' and attempt == 1 then redis.call('HSET', LOOSE, '#' .. index, A[10]) end
if get('state') ~= 'running' and get('state') ~= 'paused' then wake() end
if kind == 'chunk' then
  local was_buried = unbury(field)
  if attempt > 1 then
    if redis.call('HEXISTS', PUT_OFF, field) == 0 then put_off(was_buried) end
  elseif was_buried and get('origin') == 'message' then
    -- Counted anew when it is committed.
    count('chunks', -1)
    count('images', -images)
  end
elseif redis.call('HEXISTS', PUT_OFF, again) == 0 then
  local known = counted()
  if known then
    count('failed', -images)
    for i = 11, #A, 2 do count('failed:' .. A[i], -tonumber(A[i + 1])) end
  end
  put_off(known)
end
redis.call('HSET', PUT_OFF, again, A[6])
redis.call('ZADD', DELAYED, now(), JOB_ID .. '/' .. again)
live()
return 'replayed'
