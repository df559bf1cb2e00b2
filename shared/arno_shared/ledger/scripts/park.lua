-- Keeps a chunk's message until its job goes on, with the attempts that wait. A: index.attempt, message.
-- Returns 0 when the job goes on already.
even_when_full()
if get('state') ~= 'paused' then return 0 end
if redis.call('HEXISTS', PUT_OFF, A[1]) == 0 then redis.call('HSET', PUT_OFF, A[1], A[2]) end
live()
return 1
