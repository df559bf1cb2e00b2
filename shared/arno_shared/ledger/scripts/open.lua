-- ARGV: terms, prefix, format, lane. KEYS[8]: the set of jobs; ARGV[5]: job id; ARGV[6]: retention_s.
-- Returns 'created', 'resumed', or 'conflict' with the terms that stand.
local terms, prefix, format, lane, job_id, retention_s = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if redis.call('EXISTS', JOB) == 0 then
  local at = now()
  redis.call('HSET', JOB, 'state', 'running', 'origin', 'producer', 'sealed', '0', 'terms', terms,
             'prefix', prefix, 'format', format, 'lane', lane, 'created_at', at)
  redis.call('ZADD', KEYS[8], at, job_id)
  redis.call('ZREMRANGEBYSCORE', KEYS[8], '-inf', at - 10 * retention_s)
  return {'created', ''}
end
-- After the loss of a ledger, chunks that were in flight open their job again before its producer does.
local origin, loose, its_prefix, its_format = unpack(redis.call('HMGET', JOB, 'origin', 'loose', 'prefix', 'format'))
if origin == 'message' and not loose and its_prefix == prefix and its_format == format then
  -- What messages counted, their producer announces anew.
  redis.call('HSET', JOB, 'origin', 'producer', 'terms', terms, 'sealed', '0', 'chunks', 0, 'images', 0)
  redis.call('ZADD', KEYS[8], now(), job_id)
end
local standing = redis.call('HGET', JOB, 'terms') or ''
if standing ~= terms then return {'conflict', standing} end
wake()
redis.call('HSET', JOB, 'lane', lane)
-- Chunks that were given up whole are sent again, as everything uncommitted is.
local buried = redis.call('HGETALL', BURIED)
for i = 1, #buried, 2 do
  if string.sub(buried[i], -2) == '.1' then
    redis.call('HDEL', BURIED, buried[i])
    count('buried', -1)
    count('dead', -tonumber(buried[i + 1]))
  end
end
-- So are attempts whose messages a cancelled job dropped.
release(KEYS[9], job_id)
-- Nothing may be missing: then this is all that happens.
settle(retention_s)
return {'resumed', ''}
