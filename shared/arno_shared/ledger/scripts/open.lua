-- A producer opens a job, or finds it. A: terms, prefix, format, lane, digest of all its images or '', '1' when its record
-- in storage says that the prefix is its own, '1' when somebody said that it is to go on whatever became of it.
-- Returns 'created' or 'standing' with the state that it was in and whether it is sealed; 'terms', 'images' or 'place'
-- with what stands, when that is another job's; 'was' with the state of a job that the ledger has let go.
may_do_all()
redis.call('ZSCORE', KEYS[17], '')
local terms, prefix, format, lane, digest, owns, goes_on = A[1], A[2], A[3], A[4], A[5], A[6] == '1', A[7] == '1'

-- What was given up has its letter, and is not found by anything else.
local function count_given_up()
  local chunks, dead = 0, 0
  for _, field in ipairs(redis.call('HKEYS', BURIED)) do
    if string.sub(field, -2) == '.1' then chunks = chunks + 1 end
    dead = dead + (buried(field))
  end
  redis.call('HSET', JOB, 'buried', chunks, 'dead', dead)
end

local function take_place()
  if owns then redis.call('DEL', PLACE) end
  return claim_place()
end

-- After the loss of a ledger, messages of others may have taken the id of a job whose record stands.
if owns and get('origin') == 'message' and redis.call('HLEN', LOOSE) > 0 then redis.call('DEL', unpack(KEYS, 1, 10)) end

if redis.call('EXISTS', JOB) == 0 then
  local was, its_terms, loose = unpack(redis.call('HMGET', TOMBSTONE, 'state', 'terms', 'loose'))
  if was and not goes_on then
    if loose ~= '0' or (its_terms ~= redis.sha1hex(terms) and its_terms ~= redis.sha1hex('')) then return {'terms', ''} end
    if was == 'cancelled' then return {'was', was} end
  end
  if not take_place() then return {'place', redis.call('GET', PLACE)} end
  -- What is done of it is found anew, by its result objects.
  redis.call('DEL', COMMITTED, BYGONE, TOMBSTONE)
  redis.call('HSET', JOB, 'state', 'running', 'origin', 'producer', 'sealed', '0', 'terms', terms, 'prefix', prefix,
             'format', format, 'place', PLACE, 'lane', lane, 'created_at', now())
  if digest ~= '' then redis.call('HSET', JOB, 'digest', digest) end
  redis.call('PERSIST', BURIED)
  for _, field in ipairs(redis.call('HKEYS', BURIED)) do
    if string.sub(field, -2) ~= '.1' then redis.call('HDEL', BURIED, field) end
  end
  count_given_up()
  redis.call('ZADD', KEYS[17], now(), JOB_ID)
  redis.call('ZREMRANGEBYSCORE', KEYS[17], '-inf', now() - TOMBSTONE_S)
  live()
  return {'created', ''}
end

-- After the loss of a ledger, chunks that were in flight open their job again before its producer does.
if get('origin') == 'message' and redis.call('HLEN', LOOSE) == 0 and get('prefix') == prefix and get('format') == format then
  -- What messages counted, their producer announces anew.
  redis.call('HSET', JOB, 'origin', 'producer', 'terms', terms, 'sealed', '0', 'chunks', 0, 'images', 0)
  count_given_up()
  redis.call('ZADD', KEYS[17], now(), JOB_ID)
  -- First attempts of a producer's job come by their index.
  for _, field in ipairs(redis.call('ZRANGE', COMMITS, 0, -1)) do
    if string.sub(field, -2) == '.1' then redis.call('ZREM', COMMITS, field) end
  end
  if get('state') == 'done' then wake() end
  -- Their next attempts may have met whoever had the place meanwhile, and be on no queue.
  release()
end
local standing = get('terms') or ''
if standing ~= terms then return {'terms', get('origin') == 'producer' and standing or ''} end
if digest ~= '' and digest ~= (get('digest') or digest) then return {'images', ''} end
if not take_place() then return {'place', redis.call('GET', PLACE)} end
if digest ~= '' then redis.call('HSET', JOB, 'digest', digest) end
local found = get('state')
if found == 'incomplete' then wake() end
return {'standing', found, get('sealed')}
