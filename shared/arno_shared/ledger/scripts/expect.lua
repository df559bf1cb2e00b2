-- A job of one chunk, whose message is kept here until it has come to an end: should its sender die, a worker sends it.
-- A: terms, prefix, format, lane, images, message, seconds that its sender has, digest of what is asked.
-- Returns 'send' when its message is to be sent, now or again; 'sent' when it was; 'conflict' when the id, or the place of
-- its results, is another job's.
may_do_all()
local terms = A[1]
if redis.call('EXISTS', JOB) == 0 then
  local was, its_terms, loose, asked = unpack(redis.call('HMGET', TOMBSTONE, 'state', 'terms', 'loose', 'asked'))
  if was then
    -- After the loss of a ledger, the message in flight had opened the job again.
    local same = its_terms == redis.sha1hex(terms) or (its_terms == redis.sha1hex('') and loose == '0' and asked == A[8])
    return same and 'sent' or 'conflict'
  end
  if not claim_place() then return 'conflict' end
  redis.call('HSET', JOB, 'state', 'running', 'origin', 'sender', 'sealed', '1', 'terms', terms, 'prefix', A[2],
             'format', A[3], 'place', PLACE, 'lane', A[4], 'chunks', 1, 'images', A[5], 'asked', A[8], 'message', A[6],
             'created_at', now())
  redis.call('ZADD', DELAYED, now() + tonumber(A[7]), JOB_ID .. '/0.1')
  live()
  return 'send'
end
if get('origin') == 'message' then return get('asked') == A[8] and redis.call('HLEN', LOOSE) == 0 and 'sent' or 'conflict' end
if get('terms') ~= terms then return 'conflict' end
-- Its message may be on no queue any more, and is sent by whoever says so.
if get('state') == 'incomplete' then
  wake()
  return 'send'
end
return get('sent') and 'sent' or 'send'
