-- ARGV: retention_s. Returns the job's state, or false when there is no such job.
local state = redis.call('HGET', JOB, 'state')
if state == 'running' or state == 'paused' then
  redis.call('HSET', JOB, 'state', 'cancelled', 'finished_at', now())
  age(ARGV[1])
  return 'cancelled'
end
return state
