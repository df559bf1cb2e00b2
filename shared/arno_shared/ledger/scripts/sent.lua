-- The message of an attempt that waited is in its queue. A: index.attempt. It stays here until it has come to an end.
even_when_full()
redis.call('ZREM', DELAYED, JOB_ID .. '/' .. A[1])
if get('origin') == 'sender' and A[1] == '0.1' then redis.call('HSET', JOB, 'sent', '1') end
