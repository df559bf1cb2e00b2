-- Takes a letter out of the dead letters and makes its chunk due at once. KEYS[8]: dead letters, KEYS[9]: delayed.
-- ARGV: entry id, kind, index, attempt of the letter, images, message, delayed member, attempt to make,
--       prefix, format, then pairs of code and count. Returns 0 when the letter is no longer there.

-- Images that the ledger has forgotten, or that it never counted.
local function put_off_unknown(images)
  count('put_off', images)
  if redis.call('HGET', JOB, 'origin') == 'message' then count('images', images) end
end

if redis.call('XDEL', KEYS[8], ARGV[1]) == 0 then return 0 end
local kind, index, attempt, images = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local field = index .. '.' .. attempt
local committed = is_committed(index, attempt)
-- A chunk that was given up and then done after all needs nothing more.
if kind == 'chunk' and committed then return 1 end
open_for_message(ARGV[9], ARGV[10])
if redis.call('HGET', JOB, 'state') == 'done' then wake() end
if kind == 'chunk' then
  if redis.call('HDEL', BURIED, field) == 1 then
    count('dead', -images)
    if attempt > 1 then
      count('put_off', images)
    elseif redis.call('HGET', JOB, 'origin') == 'message' then
      -- Counted anew when it is committed.
      count('buried', -1)
      count('chunks', -1)
      count('images', -images)
    else
      count('buried', -1)
    end
  elseif attempt > 1 and redis.call('HEXISTS', PUT_OFF, field) == 0 then
    put_off_unknown(images)
  end
elseif committed then
  count('failed', -images)
  for i = 11, #ARGV, 2 do count('failed:' .. ARGV[i], -tonumber(ARGV[i + 1])) end
  count('put_off', images)
else
  put_off_unknown(images)
end
redis.call('HSET', PUT_OFF, index .. '.' .. ARGV[8], ARGV[6])
redis.call('ZADD', KEYS[9], now(), ARGV[7])
return 1
