-- Opens a job of one chunk that is about to be sent. ARGV: terms, prefix, format, lane, images, retention_s.
-- Returns 'send' when its message is to be sent, now or again; 'sent' when it was; 'conflict' when the id is taken.
local standing, origin, sent = unpack(redis.call('HMGET', JOB, 'terms', 'origin', 'sent'))
if not origin then
  redis.call('HSET', JOB, 'state', 'running', 'origin', 'sender', 'sealed', '1', 'terms', ARGV[1], 'prefix', ARGV[2],
             'format', ARGV[3], 'lane', ARGV[4], 'chunks', 1, 'images', ARGV[5], 'created_at', now())
  -- Its message may never be sent: who was to send it may die.
  redis.call('EXPIRE', JOB, ARGV[6])
  return 'send'
end
-- After the loss of a ledger, the message in flight opens the job again.
if origin == 'message' then return 'sent' end
if standing ~= ARGV[1] then return 'conflict' end
return sent and 'sent' or 'send'
