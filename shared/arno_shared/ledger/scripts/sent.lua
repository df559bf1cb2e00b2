-- The message of a job of one chunk was sent.
if redis.call('EXISTS', JOB) == 1 then redis.call('HSET', JOB, 'sent', '1') end
