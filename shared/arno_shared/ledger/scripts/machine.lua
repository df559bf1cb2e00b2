-- The two state machines, of a job and of a chunk, which docs/delivery.md draws. Read before every script.
-- KEYS: a job's keys in the order of names.JobKeys; the live jobs, the delayed, the dead letters, the topic and the
-- messages in hand; in scripts that may open a job, the key that says whose its output prefix is.
-- Other scripts have it from the job.
-- ARGV: the job's id; how long (s) the keys of a job stay that has ended, its tombstone after that, and a live job of
-- which nothing is heard; then each script's own, which are A.

local JOB, COMMITTED, COMMITS, PUT_OFF, BURIED, LOOSE, BEGUN, RESTORED, BYGONE, TOMBSTONE = unpack(KEYS, 1, 10)
local LIVE, DELAYED, DEAD, TOPIC, UNACKED = unpack(KEYS, 11, 15)
local place = redis.pcall('HGET', JOB, 'place')
local PLACE = KEYS[16] or (type(place) == 'string' and place) or nil
local JOB_ID, RETENTION_S, TOMBSTONE_S, ABANDON_S = unpack(ARGV, 1, 4)
local A = {unpack(ARGV, 5)}

-- What is done to a key further down, with arguments that let it do nothing.
local NOBODY = JOB .. ':nobody'
local SHARED = {[LIVE] = true, [DELAYED] = true, [DEAD] = true, [TOPIC] = true, [UNACKED] = true, [PLACE or ''] = true}
local READS = {
  {'TIME'}, {'EXISTS', JOB}, {'TTL', JOB}, {'HGET', JOB, ''}, {'HMGET', JOB, ''}, {'HKEYS', TOMBSTONE},
  {'HLEN', LOOSE}, {'HLEN', PUT_OFF}, {'HLEN', BEGUN}, {'HEXISTS', BURIED, ''}, {'HEXISTS', UNACKED, ''},
  {'GETBIT', COMMITTED, 0}, {'GETBIT', RESTORED, 0}, {'GETBIT', BYGONE, 0}, {'ZSCORE', COMMITS, ''}, {'ZSCORE', LIVE, ''},
  {'ZSCORE', DELAYED, ''}, {'ZRANGE', COMMITS, 1, 0}, {'ZREVRANGE', COMMITS, 1, 0}, {'XLEN', TOPIC}, {'XLEN', DEAD},
  {'GET', PLACE or NOBODY},
}
local WRITES = {
  {'HSET', JOB, 'of', 'a', 'half'}, {'HINCRBY', JOB, '', 'x'}, {'SETBIT', COMMITTED, 'x', 1}, {'ZADD', DELAYED, 'x', ''},
  {'XADD', TOPIC, '0-0', 'a', 'b'}, {'XADD', DEAD, '0-0', 'a', 'b'}, {'SET', PLACE or NOBODY, '', 'EX', 'x'},
  {'EXPIRE', JOB, 'x'}, {'HDEL', JOB, ''}, {'ZREM', LIVE, ''}, {'ZREM', DELAYED, ''}, {'ZREMRANGEBYSCORE', LIVE, 1, 0},
  {'XDEL', DEAD, '0-0'}, {'DEL', NOBODY}, {'PERSIST', NOBODY}, {'BITOP', 'OR', NOBODY, NOBODY},
}
local ABOUT_ARGUMENTS = {'not an integer', 'not a valid float', 'wrong number of arguments', 'greater than 0%-0'}

local function is_about_arguments(words)
  for _, sign in ipairs(ABOUT_ARGUMENTS) do
    if string.find(words, sign) then return true end
  end
  return false
end

-- Raises what keeps the command from being done, but for its arguments. A key that all jobs share is for somebody to mend;
-- of one job's, that job alone suffers.
local function try(command)
  local answer = redis.pcall(unpack(command))
  if type(answer) ~= 'table' or not answer.err or is_about_arguments(answer.err) then return end
  if string.find(answer.err, 'WRONGTYPE') then
    error((SHARED[command[2]] and 'WRONGTYPE ' or 'of this job, ') .. command[2] .. ' is not what it should be')
  end
  redis.call(unpack(command))
end

-- Called before anything is changed, for a script that ends in its middle is not rolled back: a user who may not do some of
-- it, a key that somebody has put something else into, and a server that refuses are met here.
local function may_do_all(even_when_full)
  if not even_when_full then try(WRITES[1]) end
  for _, command in ipairs(READS) do try(command) end
  for _, command in ipairs(WRITES) do
    -- Servers that are new enough say it without an error, of which some people count each.
    if not redis.acl_check_cmd then try(command)
    elseif not redis.acl_check_cmd(unpack(command)) then redis.call(unpack(command)) end
  end
end

-- A server whose memory is full refuses what may take more, until a script has written something else. Called by what
-- workers do, and by who lets a job go on or end: finishing work is what frees memory. What adds more is refused.
local function even_when_full()
  redis.pcall('HDEL', JOB, '')
  may_do_all(true)
end

local function now()
  local t = redis.call('TIME')
  return t[1] + t[2] / 1000000
end

local function get(field)
  return redis.call('HGET', JOB, field)
end

local function number(field)
  return tonumber(get(field) or 0)
end

-- What a lost ledger never counted cannot be counted off.
local function count(field, n)
  if n ~= 0 and redis.call('HINCRBY', JOB, field, n) < 0 then redis.call('HSET', JOB, field, 0) end
end

-- A job that has not ended: none of its keys ages, its place stays its own, and it is given up when nothing is heard of it
-- for long.
local function live()
  redis.call('ZADD', LIVE, now() + ABANDON_S, JOB_ID)
  if PLACE and redis.call('GET', PLACE) == JOB_ID then redis.call('EXPIRE', PLACE, ABANDON_S + TOMBSTONE_S) end
end

-- A job that has ended, and what is written of it after that, is forgotten in time; what is left then is a tombstone: who
-- comes late, or asks again, finds that it was, and which chunks were committed, and which given up.
local function age()
  for i = 1, 9 do redis.call('EXPIRE', KEYS[i], RETENTION_S) end
  local f = redis.call('HMGET', JOB, 'state', 'origin', 'top', 'terms', 'prefix', 'format', 'asked')
  redis.call('HSET', TOMBSTONE, 'state', f[1], 'origin', f[2], 'top', f[3] or -1, 'terms', redis.sha1hex(f[4] or ''),
             'loose', redis.call('HLEN', LOOSE), 'output', redis.sha1hex((f[5] or '') .. (f[6] or '')),
             'asked', f[7] or '')
  redis.call('EXPIRE', TOMBSTONE, TOMBSTONE_S)
  for _, key in ipairs({COMMITTED, BYGONE, BURIED}) do redis.call('EXPIRE', key, TOMBSTONE_S) end
  redis.call('ZREM', LIVE, JOB_ID)
end

local function persist()
  for i = 1, 9 do redis.call('PERSIST', KEYS[i]) end
  redis.call('DEL', TOMBSTONE)
end

local function wake()
  redis.call('HSET', JOB, 'state', 'running')
  redis.call('HDEL', JOB, 'finished_at', 'dropped')
  persist()
  live()
end

-- Notes in the log what does not come in the order of indices, or lets a reader pass over a first attempt that may come
-- after all: that one is noted as well when it does. Scored by when (µs), no two alike: what a fail-over lost, and was done
-- again, stands at another time.
local function note(what)
  local t = redis.call('TIME')
  local at = t[1] * 1000000 + t[2]
  local last = redis.call('ZREVRANGE', COMMITS, 0, 0, 'WITHSCORES')[2]
  if last and at <= tonumber(last) then at = last + 1 end
  redis.call('ZADD', COMMITS, 'NX', string.format('%.0f', at), what)
end

local function finish(state)
  redis.call('HSET', JOB, 'state', state, 'finished_at', now())
  -- Who reads a job of one chunk passes nothing over.
  if state ~= 'done' and get('origin') ~= 'sender' then note('ended') end
end

-- Run after everything that happens to a job: whether it is done, and whether it ages. A job is done once all of its
-- chunks are known and nothing of it is outstanding. One that was cancelled ages once workers have met, and dropped, all
-- that was queued of it; of messages of others nobody knows how many are queued.
local function settle()
  local f = redis.call('HMGET', JOB, 'state', 'sealed', 'origin')
  local state, left = f[1], number('chunks') - number('committed') - number('buried')
  if (state == 'running' or state == 'paused') and f[2] == '1' and left <= 0 and number('put_off') <= 0 then
    finish('done')
    state = 'done'
  end
  local met = state == 'cancelled' and (f[3] == 'message' or left <= number('dropped'))
  -- What was given up while some of it was queued ages already, and goes on to.
  local ages = redis.call('TTL', JOB) > 0
  if state == 'done' or state == 'incomplete' or met or ages then age() else live() end
end

local function is_committed(index, attempt)
  if attempt == 1 then
    return redis.call('GETBIT', COMMITTED, index) == 1 or redis.call('GETBIT', BYGONE, index) == 1
  end
  return redis.call('ZSCORE', COMMITS, index .. '.' .. attempt) ~= false
end

-- Attempts that wait are due now: those that were put off, and those that a job which stood still has dropped.
local function release()
  local due = now()
  for _, field in ipairs(redis.call('HKEYS', PUT_OFF)) do
    redis.call('ZADD', DELAYED, 'NX', due, JOB_ID .. '/' .. field)
  end
end

-- An output prefix is one job's, for as long as the job can be live and its tombstone stand. Whether it is this one's,
-- from now on or from before.
local function claim_place()
  local owner = redis.call('GET', PLACE)
  if owner and owner ~= JOB_ID then return false end
  redis.call('SET', PLACE, JOB_ID, 'EX', ABANDON_S + TOMBSTONE_S)
  return true
end

-- What no producer opened a job for is a job all the same, complete as soon as what came of it is: messages of others, and
-- chunks whose ledger was lost, or has let the job go.
local function open_for_message(prefix, format)
  if redis.call('EXISTS', JOB) == 1 then return end
  local was, top = unpack(redis.call('HMGET', TOMBSTONE, 'state', 'top'))
  redis.call('HSET', JOB, 'state', 'running', 'origin', 'message', 'sealed', '1', 'created_at', now(),
             'prefix', prefix, 'format', format, 'place', PLACE, 'top', top or -1)
  -- What was counted then is not counted now.
  if redis.call('EXISTS', COMMITTED) == 1 then
    redis.call('BITOP', 'OR', BYGONE, BYGONE, COMMITTED)
    redis.call('DEL', COMMITTED)
  end
  redis.call('SET', PLACE, JOB_ID, 'NX', 'EX', ABANDON_S + TOMBSTONE_S)
  persist()
  live()
  -- A slow holder's chunk counts, and brings nothing back that somebody stopped.
  if was == 'cancelled' then finish(was) end
end

-- What is known of a chunk that was given up whole: its images, its letter, the digest of what it asked, and of a later
-- attempt its images' positions.
local function buried(field)
  return string.match(redis.call('HGET', BURIED, field) or '', '^(%d+):?([^:]*):?([^:]*):?(.*)$')
end

-- Whether a first attempt asks for something else than what has its index, as far as that is known: messages of others say
-- what they want, and what was given up is known for as long as its job's tombstone stands.
local function is_anothers(index, attempt, digest)
  if attempt > 1 or digest == '' then return false end
  local _, _, given_up = buried(index .. '.1')
  local asked = redis.call('HGET', LOOSE, '#' .. index) or given_up or ''
  return asked ~= '' and asked ~= digest
end

-- Whether a chunk is of the job that has its id. After a loss of the ledger that may be other work. The digest of a first
-- attempt tells, where it is known what its job is asked.
local function is_of_job(attempt, prefix, format, digest)
  local f = redis.call('HMGET', JOB, 'prefix', 'format', get('origin') == 'sender' and 'asked' or '')
  return f[1] == prefix and f[2] == format and (attempt > 1 or digest == '' or (f[3] or digest) == digest)
end

-- Of a job that may be one of a single chunk, whose ledger was lost: its sender, who comes again, is told that it was sent.
local function note_asked(index, attempt, digest)
  if index == 0 and attempt == 1 and get('origin') == 'message' and not get('asked') then
    redis.call('HSET', JOB, 'asked', digest)
  end
end

-- What messages of others are numbered from.
local function raise_top(index)
  if index > tonumber(get('top') or -1) then redis.call('HSET', JOB, 'top', index) end
end

-- Of images that are about to be counted for what became of them: producers announce the first attempts of theirs,
-- messages are counted now. A later attempt is counted as put off, unless the ledger was lost meanwhile.
local function leave_waiting(attempt, images, was_put_off)
  if attempt > 1 and was_put_off then
    count('put_off', -images)
  elseif get('origin') == 'message' then
    count('images', images)
    if attempt == 1 then count('chunks', 1) end
  end
end

-- The first attempt has come to an end: what its sender asked for need not be kept.
local function forget_message()
  if get('origin') == 'sender' then redis.call('HDEL', JOB, 'message') end
end

-- A chunk that was given up whole rises again: its letter, which says that it did not, goes.
local function unbury(field)
  local images, letter = buried(field)
  if not images then return false end
  redis.call('HDEL', BURIED, field)
  count('dead', -tonumber(images))
  if string.sub(field, -2) == '.1' then count('buried', -1) end
  if letter ~= '' then redis.call('XDEL', DEAD, letter) end
  return true
end

-- How often a chunk, or an image alone, was begun by somebody who is gone, and who may still have it. A beginning is
-- known by the tag under which its message is in hand: that is gone once its lease has run out.
local function beginnings(field, but_for)
  local gone, tags = string.match(redis.call('HGET', BEGUN, field) or '0', '^(%d+)(.*)$')
  local living = {}
  gone = tonumber(gone)
  for tag in string.gmatch(tags, '%S+') do
    if tag ~= but_for then
      if redis.call('HEXISTS', UNACKED, tag) == 1 then living[#living + 1] = tag else gone = gone + 1 end
    end
  end
  return gone, living
end

local function write_beginnings(field, gone, living)
  if gone == 0 and #living == 0 then
    redis.call('HDEL', BEGUN, field)
  else
    redis.call('HSET', BEGUN, field, gone .. ' ' .. table.concat(living, ' '))
    -- The job may have ended, and be ageing, or be gone.
    local left_s = redis.call('TTL', JOB)
    if left_s ~= -1 then redis.call('EXPIRE', BEGUN, left_s > 0 and left_s or RETENTION_S) end
  end
end

-- Returns how often it was begun without an end, this time included. Called again by the same holder it counts once.
local function count_beginning(field, tag)
  local gone, living = beginnings(field, tag)
  living[#living + 1] = tag
  write_beginnings(field, gone, living)
  return gone + 1
end

-- The chunk has ended: how often it was begun matters no more.
local function forget_begun(field, images)
  local gone, tags = string.match(redis.call('HGET', BEGUN, field) or '0', '^(%d+)(.*)$')
  redis.call('HDEL', BEGUN, field)
  local _, times = string.gsub(tags, '%S+', '')
  if gone + times > 1 then
    for position = 0, images - 1 do redis.call('HDEL', BEGUN, field .. '/' .. position) end
    redis.call('HDEL', BEGUN, field .. '/whole')
  end
end
