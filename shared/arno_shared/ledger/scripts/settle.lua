-- Read before every script. KEYS[1..7] are a job's keys, in the order of names.JobKeys.

local JOB, COMMITTED, RETRIED, PUT_OFF, BURIED, LOOSE, BEGUN = unpack(KEYS, 1, 7)

-- A server whose memory is full refuses what may take more, until a script has written something else. Called first by
-- what workers do: finishing work is what frees memory. What producers do is refused.
local function even_when_full()
  redis.call('HDEL', JOB, '')
end

local function now()
  local t = redis.call('TIME')
  return t[1] + t[2] / 1000000
end

local function count(field, n)
  if n ~= 0 then redis.call('HINCRBY', JOB, field, n) end
end

local function age(retention_s)
  for i = 1, 7 do redis.call('EXPIRE', KEYS[i], retention_s) end
end

-- The job may have ended, and be ageing, while something of it is written.
local function age_with_job(key)
  local left_s = redis.call('TTL', JOB)
  if left_s > 0 then redis.call('EXPIRE', key, left_s) end
end

-- Counts that a chunk, or an image alone, is begun; how often it was, without an end, this time included. A token says
-- which beginning it is: a call that is made again, because its answer was lost, is not another one.
local function count_beginning(field, token)
  local count, last = string.match(redis.call('HGET', BEGUN, field) or '0:', '^(%d+):(.*)$')
  if last ~= token then
    count = count + 1
    redis.call('HSET', BEGUN, field, count .. ':' .. token)
    age_with_job(BEGUN)
  end
  return tonumber(count)
end

local function wake()
  redis.call('HSET', JOB, 'state', 'running')
  redis.call('HDEL', JOB, 'finished_at')
  for i = 1, 7 do redis.call('PERSIST', KEYS[i]) end
end

-- A job is done once all of its chunks are known and nothing of it is outstanding; then its keys begin to age.
-- Those that are written after a job has ended age with the others.
local function settle(retention_s)
  local f = redis.call('HMGET', JOB, 'state', 'sealed', 'chunks', 'committed', 'buried', 'put_off')
  local n = {}
  for i = 3, 6 do n[i] = tonumber(f[i] or 0) or 0 end
  if (f[1] == 'running' or f[1] == 'paused') and f[2] == '1' and n[4] + n[5] >= n[3] and n[6] <= 0 then
    redis.call('HSET', JOB, 'state', 'done', 'finished_at', now())
    f[1] = 'done'
  end
  if f[1] == 'done' or f[1] == 'cancelled' then age(retention_s) end
end

-- Attempts that wait are due now: those that were put off, and those that a job which stood still has dropped.
local function release(delayed, job_id)
  local due = now()
  for _, field in ipairs(redis.call('HKEYS', PUT_OFF)) do
    redis.call('ZADD', delayed, 'NX', due, job_id .. '/' .. field)
  end
end

local function is_committed(index, attempt)
  if attempt == 1 then return redis.call('GETBIT', COMMITTED, index) == 1 end
  return redis.call('SISMEMBER', RETRIED, index .. '.' .. attempt) == 1
end

-- The chunk has ended: how often it was begun matters no more.
local function forget_begun(field, images)
  local times = string.match(redis.call('HGET', BEGUN, field) or '0:', '^%d+')
  redis.call('HDEL', BEGUN, field)
  if tonumber(times) > 1 then
    for position = 0, images - 1 do redis.call('HDEL', BEGUN, field .. '/' .. position) end
    redis.call('HDEL', BEGUN, field .. '/whole')
  end
end

-- Of images that are about to be counted for what became of them: producers announce the first attempts of theirs,
-- messages are counted now. A later attempt is counted as put off, unless the ledger was lost meanwhile.
local function leave_waiting(attempt, images, was_put_off)
  local by_message = redis.call('HGET', JOB, 'origin') == 'message'
  if attempt > 1 and was_put_off then
    count('put_off', -images)
  elseif by_message then
    count('images', images)
    if attempt == 1 then count('chunks', 1) end
  end
end

-- A message that no producer opened a job for is a job of its own, complete as soon as what came of it is.
local function open_for_message(prefix, format)
  if redis.call('EXISTS', JOB) == 0 then
    redis.call('HSET', JOB, 'state', 'running', 'origin', 'message', 'sealed', '1',
               'created_at', now(), 'prefix', prefix, 'format', format)
  end
end
