-- A paused job goes on. Returns the job's state, or false when there is no such job.
even_when_full()
local state = get('state')
if state == 'paused' then
  redis.call('HSET', JOB, 'state', 'running')
  release()
  live()
  return 'running'
end
return state
