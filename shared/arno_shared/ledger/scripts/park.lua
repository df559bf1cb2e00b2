-- Keeps a chunk's message until its job goes on, with the attempts that wait. ARGV: index.attempt, message.
-- Returns 0 when the job goes on already.
even_when_full()
if redis.call('HGET', JOB, 'state') ~= 'paused' then return 0 end
redis.call('HSETNX', PUT_OFF, ARGV[1], ARGV[2])
return 1
