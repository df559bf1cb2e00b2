-- A paused job goes on. KEYS[8]: delayed. ARGV: job id. Returns the job's state, or false when there is no such job.
local state = redis.call('HGET', JOB, 'state')
if state == 'paused' then
  redis.call('HSET', JOB, 'state', 'running')
  release(KEYS[8], ARGV[1])
  return 'running'
end
return state
